//! How long each crate may be: a newcomer should read the core in an afternoon.

use super::scan::{Scan, line_of};
use super::{File, Finding};

/// Lines of a crate outside tests, comments and blank lines included, and which folders make it up.
const BUDGETS: [(&str, usize, &[&str]); 4] = [
    ("versant-device", 2_500, &["crates/versant-device/src/"]),
    ("versant-graph", 7_000, &["crates/versant-graph/src/"]),
    (
        "versant-kernels",
        6_000,
        &["crates/versant-kernels/src/", "shaders/"],
    ),
    ("versant-nn", 5_000, &["crates/versant-nn/src/"]),
];

/// Prints how much of each budget is used, and finds the crates that are over it.
pub fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, budget, folders) in BUDGETS {
        let lines = count(files, folders);
        println!("{name}: {lines} of {budget} lines outside tests");
        if lines > budget {
            let what = format!("{lines} lines outside tests; the budget is {budget}");
            findings.push(Finding::new(folders[0], 0, what));
        }
    }
    findings
}

/// The lines outside tests of the Rust and WGSL files in `folders`.
fn count(files: &[File], folders: &[&str]) -> usize {
    let own: Vec<_> = files
        .iter()
        .filter(|file| folders.iter().any(|folder| file.path.starts_with(folder)))
        .filter(|file| file.is("rs") || file.is("wgsl"))
        .map(|file| (file, Scan::new(&file.text)))
        .collect();
    let tests: Vec<String> = own
        .iter()
        .flat_map(|(file, scan)| {
            let folder = module_folder(&file.path);
            let names = scan.test_modules().into_iter();
            names.map(move |name| format!("{folder}{name}"))
        })
        .collect();
    own.iter()
        .filter(|(file, _)| {
            !tests.iter().any(|test| {
                let rest = file.path.strip_prefix(test.as_str());
                rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            })
        })
        .map(|(file, scan)| {
            let inside: usize = scan
                .test_items()
                .into_iter()
                .map(|item| line_of(&scan.code, item.end - 1) - line_of(&scan.code, item.start) + 1)
                .sum();
            file.text.lines().count() - inside
        })
        .sum()
}

/// The folder, with a slash, in which a module declared by this file has its own file.
fn module_folder(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    match name {
        "lib.rs" | "main.rs" | "mod.rs" => format!("{folder}/"),
        _ => format!("{}/", path.trim_end_matches(".rs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.to_string(),
            text: text.to_string(),
        }
    }

    #[test]
    fn tests_do_not_count_wherever_they_stand() {
        let files = [
            file("c/src/lib.rs", "mod a;\n#[cfg(test)]\nmod checks;\n"),
            file("c/src/checks.rs", "fn t() {}\n"),
            file("c/src/checks/deep.rs", "fn t() {}\n"),
            file("c/src/checks_of_users.rs", "fn counts() {}\n"),
            file(
                "c/src/a.rs",
                "fn a() {}\n\n// Why.\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n",
            ),
            file("c/src/b.rs", "#[cfg(test)]\nmod tests;\nfn b() {}\n"),
            file("c/src/b/tests.rs", "fn t() {}\n"),
            file("c/src/notes.md", "words\n"),
            file("c/tests/t.rs", "fn t() {}\n"),
            file("s/x.wgsl", "// Header.\nfn f() {}\n"),
        ];
        assert_eq!(count(&files, &["c/src/"]), 1 + 1 + 3 + 1);
        assert_eq!(count(&files, &["c/src/", "s/"]), 8);
    }
}
