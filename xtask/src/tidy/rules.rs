//! Rules about single files.

use super::scan::{Scan, line_of, words};
use super::{File, Finding};

/// The longest file, in lines, of Rust or WGSL.
const FILE_LINES: usize = 600;

/// The longest function, in lines from `fn` to the closing brace.
const FUNCTION_LINES: usize = 80;

/// Macros that mark unfinished work or a debugging session.
const MACROS: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// Words in comments that mark unfinished work. In pieces, so that a plain search finds no false hit here.
const MARKS: [&str; 3] = [concat!("FIX", "ME"), concat!("X", "XX"), concat!("TO", "DO")];

/// Hosts of package registries: ordinary clients know them, so no file has to. In pieces, for this very rule.
const HOSTS: [&str; 9] = [
    concat!("crates", ".io"),
    concat!("py", "pi.org"),
    concat!("python", "hosted.org"),
    concat!("npm", "js.org"),
    concat!("npm", "js.com"),
    concat!("debian", ".org"),
    concat!("ubuntu", ".com"),
    concat!("maven", ".org"),
    concat!("golang", ".org"),
];

/// Files that may hold `unsafe`, with the reason.
const UNSAFE: [(&str, &str); 4] = [
    (
        "crates/versant-kernels/src/contract/gemm_call.rs",
        "the gemm crate's only entry takes pointers; the extents and bounds are asserted right before the call",
    ),
    (
        "crates/versant-kernels/src/stream.rs",
        "stores past the caches take a pointer and want a fence; the slice is borrowed, and the fence a value that is dropped",
    ),
    (
        "crates/versant-device/src/gpu/adapter.rs",
        "wgpu hands the token for experimental features out through an unsafe call only; an option asks for it",
    ),
    (
        "crates/versant-device/src/gpu/pipelines.rs",
        "wgpu compiles a kernel without run-time checks through an unsafe call only; the kernel vouches for itself",
    ),
];

/// Applies every rule to every file.
pub fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        hosts(file, &mut findings);
        if file.is("rs") || file.is("wgsl") {
            let scan = Scan::new(&file.text);
            sizes(file, &scan, &mut findings);
            marks(file, &scan, &mut findings);
        }
        if file.is("rs") {
            let scan = Scan::new(&file.text);
            leftovers(file, &scan, &mut findings);
            unsafe_code(file, &scan, &mut findings);
            crate_header(file, &mut findings);
        }
        if file.is("wgsl") && !file.text.trim_start().starts_with("//") {
            let what = "a shader starts with a header comment: layout, tile, memory, what bounds it";
            findings.push(Finding::new(&file.path, 1, what));
        }
    }
    for (path, _) in UNSAFE {
        let used =
            files.iter().any(|file| file.path == path && !Scan::new(&file.text).words("unsafe").is_empty());
        if !used {
            let what = "stands in the list of files with `unsafe` (xtask/src/tidy/rules.rs) and has none";
            findings.push(Finding::new(path, 0, what));
        }
    }
    findings
}

fn sizes(file: &File, scan: &Scan, findings: &mut Vec<Finding>) {
    let lines = file.text.lines().count();
    if lines > FILE_LINES {
        let what = format!("{lines} lines; a file has at most {FILE_LINES}");
        findings.push(Finding::new(&file.path, 0, what));
    }
    for function in scan.functions() {
        if function.lines > FUNCTION_LINES {
            let what = format!(
                "function `{}` has {} lines; at most {FUNCTION_LINES}",
                function.name, function.lines
            );
            findings.push(Finding::new(&file.path, function.line, what));
        }
    }
}

fn marks(file: &File, scan: &Scan, findings: &mut Vec<Finding>) {
    for mark in MARKS {
        for at in words(&scan.comments, mark) {
            let what = format!("`{mark}`: finish it, or file an issue");
            findings.push(Finding::new(&file.path, line_of(&scan.comments, at), what));
        }
    }
}

fn leftovers(file: &File, scan: &Scan, findings: &mut Vec<Finding>) {
    for name in MACROS {
        for at in scan.words(name) {
            if scan.code.get(at + name.len()) == Some(&'!') {
                let line = line_of(&scan.code, at);
                findings.push(Finding::new(&file.path, line, format!("`{name}!` is left")));
            }
        }
    }
    for at in scan.words("ignore") {
        if scan.code[..at].ends_with(&['#', '[']) {
            let what = "an ignored test: make it run or remove it";
            findings.push(Finding::new(&file.path, line_of(&scan.code, at), what));
        }
    }
}

fn unsafe_code(file: &File, scan: &Scan, findings: &mut Vec<Finding>) {
    if UNSAFE.iter().any(|(path, _)| *path == file.path) {
        return;
    }
    for at in scan.words("unsafe") {
        let what = "`unsafe` outside the list of xtask/src/tidy/rules.rs";
        findings.push(Finding::new(&file.path, line_of(&scan.code, at), what));
    }
}

/// Every crate says first what it deliberately does not know.
fn crate_header(file: &File, findings: &mut Vec<Finding>) {
    if !file.path.starts_with("crates/") || !file.path.ends_with("/src/lib.rs") {
        return;
    }
    let says = file
        .text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .any(|line| line.contains("deliberately"));
    if !says {
        let what = "the first doc comment of a crate says what it deliberately does not know";
        findings.push(Finding::new(&file.path, 1, what));
    }
}

fn hosts(file: &File, findings: &mut Vec<Finding>) {
    // A Cargo.lock is cargo's own, and names the registry by its address.
    if file.path == "Cargo.lock" || file.path.ends_with("/Cargo.lock") {
        return;
    }
    for (number, line) in file.text.lines().enumerate() {
        if let Some(host) = HOSTS.iter().find(|host| line.contains(**host)) {
            let what = format!("names the registry host {host}; name the package instead");
            findings.push(Finding::new(&file.path, number + 1, what));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn found(path: &str, text: &str) -> Vec<(usize, String)> {
        let file = File { path: path.to_string(), text: text.to_string() };
        check(&[file])
            .into_iter()
            .filter(|finding| finding.path == path)
            .map(|finding| (finding.line, finding.what))
            .collect()
    }

    fn lines(path: &str, text: &str) -> Vec<usize> {
        found(path, text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn clean_files_have_no_fault() {
        assert!(found("crates/a/src/x.rs", "//! A file.\nfn f() {}\n").is_empty());
        let library = "//! A crate.\n//!\n//! It deliberately knows nothing.\n";
        assert!(found("crates/a/src/lib.rs", library).is_empty());
        assert!(found("shaders/a/a.wgsl", "// Header.\nfn f() {}\n").is_empty());
    }

    #[test]
    fn long_files_and_functions_are_found_and_the_limit_itself_is_fine() {
        assert_eq!(lines("a.rs", &"\n".repeat(600)), NONE);
        assert_eq!(lines("a.rs", &"\n".repeat(601)), [0]);
        let function = |body: usize| format!("\nfn f() {{\n{}}}\n", "    x();\n".repeat(body));
        assert_eq!(lines("a.rs", &function(78)), NONE);
        assert_eq!(lines("a.rs", &function(79)), [2]);
        let tests = format!("#[cfg(test)]\nmod tests {{{}}}\n", function(79));
        assert_eq!(lines("a.rs", &tests), [3]);
    }

    #[test]
    fn leftovers_are_found_in_code_and_marks_in_comments() {
        let macros = ["todo", "unimplemented", "dbg"];
        for name in macros {
            assert_eq!(lines("a.rs", &format!("fn f() {{\n    {name}!()\n}}\n")), [2]);
            assert_eq!(lines("a.rs", &format!("const A: &str = \"{name}!\";\n")), NONE);
        }
        for mark in MARKS {
            assert_eq!(lines("a.rs", &format!("\n// {mark}: later\n")), [2]);
            assert_eq!(lines("a.wgsl", &format!("// Header.\n/* {mark} */\n")), [2]);
            assert_eq!(lines("a.rs", &format!("// {mark}S\n")), NONE);
        }
        assert_eq!(lines("a.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}\n"), [2]);
        assert_eq!(lines("a.rs", "let ignore = [ignored];\n"), NONE);
    }

    #[test]
    fn unsafe_is_found_only_as_code() {
        assert_eq!(lines("a.rs", "// unsafe\n#![deny(unsafe_code)]\n"), NONE);
        assert_eq!(lines("a.rs", "\nlet x = unsafe { y() };\n"), [2]);
    }

    #[test]
    fn headers_are_demanded() {
        assert_eq!(lines("crates/a/src/lib.rs", "//! A crate.\n"), [1]);
        assert_eq!(lines("shaders/a/a.wgsl", "fn f() {}\n"), [1]);
    }

    #[test]
    fn registry_hosts_are_found_everywhere_but_in_lock_files() {
        let text = format!("\nsee https://{}/x\n", HOSTS[0]);
        assert_eq!(lines("README.md", &text), [2]);
        assert_eq!(lines("Cargo.lock", &text), NONE);
        assert_eq!(lines("benches/peers/x/Cargo.lock", &text), NONE);
    }
}
