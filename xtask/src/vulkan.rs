//! Making sure that software Vulkan (Mesa's lavapipe) is on the machine, without linking to Vulkan.
//!
//! Two things are needed: the loader `libvulkan.so.1`, and a driver manifest (a JSON file, see the Vulkan
//! loader's "driver interface to the loader") that names a lavapipe library which exists.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::{apt, run};

const PACKAGES: [&str; 2] = ["mesa-vulkan-drivers", "libvulkan1"];

/// Installs lavapipe where it is missing and apt can; otherwise says what to do.
pub fn ensure_software_adapter() -> Result<()> {
    let Err(missing) = look() else {
        return Ok(());
    };
    if !apt::may_install() {
        return Err(Error::Missing(advice(&missing)));
    }
    eprintln!(
        "software Vulkan is not complete here ({missing}); installing {} with apt-get",
        PACKAGES.join(" and ")
    );
    apt::install(&PACKAGES)?;
    look().map_err(|still| {
        Error::Missing(format!(
            "{} were installed, and yet {still}; look at /usr/share/vulkan/icd.d",
            PACKAGES.join(" and ")
        ))
    })
}

fn advice(missing: &str) -> String {
    format!(
        "software Vulkan is needed for the GPU tests, and {missing}. This user cannot install packages \
         with apt-get, so please install it: Debian and Ubuntu `apt-get install {}`; Fedora \
         `dnf install mesa-vulkan-drivers vulkan-loader`; Arch `pacman -S vulkan-swrast`. \
         With a real graphics card, `cargo xtask test --device gpu` uses that instead. \
         Plain `cargo test` runs without any adapter and says what it skipped.",
        PACKAGES.join(" ")
    )
}

/// What is missing for a software adapter, in words.
fn look() -> std::result::Result<(), String> {
    if !find_library("libvulkan.so.1") {
        return Err("the loader libvulkan.so.1 was not found".to_string());
    }
    let found = manifests()
        .iter()
        .any(|manifest| lavapipe_library(manifest).is_some_and(|library| find_library(&library)));
    if found {
        Ok(())
    } else {
        Err("no lavapipe driver manifest (lvp_icd*.json) with its library was found".to_string())
    }
}

/// The driver manifests that the loader would read: the variables first, as in the loader, then the folders.
fn manifests() -> Vec<PathBuf> {
    for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        if let Some(list) = std::env::var_os(variable).filter(|list| !list.is_empty()) {
            return std::env::split_paths(&list).collect();
        }
    }
    let added = std::env::var_os("VK_ADD_DRIVER_FILES").unwrap_or_default();
    let mut files: Vec<PathBuf> = std::env::split_paths(&added).collect();
    let shared = std::env::var_os("XDG_DATA_DIRS").unwrap_or_default();
    let folders = ["/etc", "/usr/local/share", "/usr/share"]
        .into_iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&shared));
    for folder in folders {
        let Ok(entries) = std::fs::read_dir(folder.join("vulkan/icd.d")) else {
            continue;
        };
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files
}

/// The library that a manifest names, if it is lavapipe's; a relative path starts at the manifest.
fn lavapipe_library(manifest: &Path) -> Option<String> {
    let text = std::fs::read_to_string(manifest).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    let library = json["ICD"]["library_path"].as_str()?;
    if !library.contains("lvp") {
        return None;
    }
    if library.contains('/') {
        let path = manifest.parent()?.join(library);
        return Some(path.to_string_lossy().into_owned());
    }
    Some(library.to_string())
}

/// Whether a shared library exists: a path as such, a bare name where the dynamic linker looks.
fn find_library(name: &str) -> bool {
    if name.contains('/') {
        return Path::new(name).exists();
    }
    let listed = ["ldconfig", "/sbin/ldconfig"].into_iter().any(|program| {
        Command::new(program)
            .arg("-p")
            .output()
            .is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains(name))
    });
    let folders = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    listed
        || std::env::split_paths(&folders)
            .chain(["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from))
            .any(|folder| folder.join(name).exists())
}

/// The folder for Mesa's shader cache: one for each vector width, because the cache's key does not hold it.
pub fn shader_cache() -> PathBuf {
    let width = std::env::var("LP_NATIVE_VECTOR_WIDTH").unwrap_or_else(|_| "native".to_string());
    run::target().join("mesa-shader-cache").join(width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_of_another_driver_is_not_lavapipe() {
        let folder = std::env::temp_dir().join(format!("versant-icd-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let write = |name: &str, library: &str| {
            let path = folder.join(name);
            let text = format!(r#"{{"ICD": {{"library_path": "{library}"}}}}"#);
            std::fs::write(&path, text).expect("the temporary folder is writable");
            path
        };
        let other = write("other.json", "libvulkan_radeon.so");
        let bare = write("bare.json", "libvulkan_lvp.so");
        let relative = write("relative.json", "./libvulkan_lvp.so");
        assert_eq!(lavapipe_library(&other), None);
        assert_eq!(lavapipe_library(&folder.join("absent.json")), None);
        assert_eq!(lavapipe_library(&bare).as_deref(), Some("libvulkan_lvp.so"));
        let found = lavapipe_library(&relative).expect("it names lavapipe");
        assert!(Path::new(&found).starts_with(&folder), "{found}");
        assert!(!find_library(&found), "no such library was made");
        std::fs::remove_dir_all(&folder).expect("made above");
    }
}
