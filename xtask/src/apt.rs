//! Debian's package manager, where there is one.

use std::process::Command;

use crate::error::{Error, Result};
use crate::run;

/// Whether this machine has apt-get.
pub fn present() -> bool {
    run::works(Command::new("apt-get").arg("--version"))
}

/// Whether packages can be installed without asking anybody for a password.
pub fn may_install() -> bool {
    present() && privileged().is_some()
}

/// Updates the package lists and installs `packages` in the versions that apt offers.
pub fn install(packages: &[&str]) -> Result<()> {
    run::run(apt_get()?.arg("update"))?;
    run::run(apt_get()?.args(["install", "--yes", "--no-install-recommends"]).args(packages))
}

/// Updates the package lists.
pub fn update() -> Result<()> {
    run::run(apt_get()?.arg("update"))
}

/// `apt-get` with the right to change the system, never asking a question.
fn apt_get() -> Result<Command> {
    let prefix = privileged().ok_or_else(|| {
        Error::Missing("neither root nor `sudo -n` is available to run apt-get".to_string())
    })?;
    // Through `env`, because sudo clears the environment.
    let mut words = prefix.iter().chain(&["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    let mut command = Command::new(words.next().expect("the list ends in three words"));
    command.args(words).arg("--quiet");
    Ok(command)
}

/// The words that make a command privileged: none for root, `sudo -n` where that works.
fn privileged() -> Option<&'static [&'static str]> {
    let user = run::output(Command::new("id").arg("-u")).ok()?;
    if user.trim() == "0" {
        Some(&[])
    } else if run::works(Command::new("sudo").args(["-n", "true"])) {
        Some(&["sudo", "-n"])
    } else {
        None
    }
}
