//! Which crate may depend on which: arrows go one way, and only the device crate names wgpu.

use super::Finding;
use crate::error::{Error, Result};
use crate::run;

/// The crates of this workspace that each crate may name, in tests and build scripts too.
/// `versant -> nn, data -> graph -> {kernels, device}`; the two leaves do not know each other.
const ARROWS: [(&str, &[&str]); 7] = [
    ("versant-device", &[]),
    ("versant-kernels", &[]),
    ("versant-graph", &["versant-device", "versant-kernels"]),
    ("versant-nn", &["versant-graph"]),
    ("versant-data", &["versant-graph"]),
    ("versant", &["versant-graph", "versant-nn", "versant-data"]),
    ("xtask", &[]),
];

/// Packages that judge the whole and may name any crate.
const JUDGES: [&str; 2] = ["versant-tests", "versant-benches"];

/// The only crate that names wgpu.
const WGPU_OWNER: &str = "versant-device";

/// A package of the workspace with the names of its direct dependencies.
pub struct Package {
    /// Its name.
    pub name: String,
    /// What it depends on, in code, tests or build script.
    pub dependencies: Vec<String>,
}

/// The packages of the workspace as cargo sees them.
pub fn read() -> Result<Vec<Package>> {
    let mut command = run::cargo();
    command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let unexpected = |why: String| Error::Output { command: "cargo metadata".to_string(), why };
    let text = run::output(&mut command)?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| unexpected(error.to_string()))?;
    let list = json["packages"].as_array();
    list.into_iter()
        .flatten()
        .map(|package| {
            let name = package["name"].as_str().map(str::to_string);
            let dependencies = package["dependencies"].as_array();
            let dependencies = dependencies.into_iter().flatten();
            Some(Package {
                name: name?,
                dependencies: dependencies
                    .map(|dependency| dependency["name"].as_str().map(str::to_string))
                    .collect::<Option<_>>()?,
            })
        })
        .collect::<Option<Vec<_>>>()
        .filter(|packages| !packages.is_empty())
        .ok_or_else(|| unexpected("no list of packages with names".to_string()))
}

/// Finds the arrows that are not drawn in the table.
pub fn check(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let name = package.name.as_str();
        let mut fault = |what: String| findings.push(Finding::new(name, 0, what));
        let allowed = ARROWS.iter().find(|(known, _)| *known == name);
        if allowed.is_none() && !JUDGES.contains(&name) {
            fault("a package without a row in xtask/src/tidy/packages.rs".to_string());
        }
        for dependency in package.dependencies.iter().map(String::as_str) {
            if dependency == "wgpu" && name != WGPU_OWNER {
                fault(format!("names wgpu; only {WGPU_OWNER} does"));
            }
            let own = packages.iter().any(|other| other.name == dependency);
            let drawn = allowed.is_none_or(|(_, to)| to.contains(&dependency));
            if own && !drawn {
                fault(format!(
                    "depends on {dependency}; arrows: versant -> nn, data -> graph -> kernels, device"
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(arrows: &[(&str, &[&str])]) -> Vec<String> {
        let packages: Vec<Package> = arrows
            .iter()
            .map(|(name, to)| Package {
                name: name.to_string(),
                dependencies: to.iter().map(|name| name.to_string()).collect(),
            })
            .collect();
        check(&packages).into_iter().map(|f| f.path).collect()
    }

    #[test]
    fn the_drawn_arrows_and_outside_crates_are_fine() {
        assert!(faults(&ARROWS).is_empty());
        let judge: &[&str] = &["versant-device", "versant-nn", "proptest"];
        let device: &[&str] = &["wgpu"];
        let rows = [("versant-tests", judge), ("versant-device", device), ("versant-nn", &["versant-graph"])];
        assert!(faults(&rows).is_empty());
    }

    #[test]
    fn every_other_arrow_is_a_fault() {
        let rows: [(&str, &[&str]); 3] =
            [("versant-device", &["versant-kernels"]), ("versant-kernels", &["wgpu"]), ("versant-new", &[])];
        assert_eq!(faults(&rows), ["versant-device", "versant-kernels", "versant-new"]);
    }

    #[test]
    fn cargo_metadata_is_understood() {
        let packages = read().expect("cargo runs this test, so it can describe the workspace");
        assert!(packages.iter().any(|package| {
            package.name == "versant-graph" && package.dependencies.contains(&"thiserror".to_string())
        }));
    }
}
