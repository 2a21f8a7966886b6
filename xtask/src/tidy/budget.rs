//! How long each crate may be: a newcomer should read the core in an afternoon.

use super::scan::{Scan, line_of};
use super::{File, Finding};

/// Lines of code of a crate outside tests, and which folders make it up. Comments and blank lines are not
/// counted: a budget that they used up would be met by leaving out what a reader needs. The design gives the
/// graph 7,000 and the kernels 6,000 with the emitter among the graph, and the device 2,500; programs are emitted and
/// evaluated in the kernel crate here; layers have 5,000. All of them are over the design's figures since GPU speed came in: tuned
/// variants with their checks, attention, recomputing, vectors in emitted text, profiles and measured peaks, loops,
/// sorting; ten optimisers, losses, transformers, generation, mixed precision and PyTorch's files.
/// ARCHITECTURE.md says so, too.
const BUDGETS: [(&str, usize, &[&str]); 4] = [
    ("versant-device", 3_250, &["crates/versant-device/src/"]),
    ("versant-graph", 9_490, &["crates/versant-graph/src/"]),
    ("versant-kernels", 14_990, &["crates/versant-kernels/src/", "shaders/"]),
    ("versant-nn", 8_300, &["crates/versant-nn/src/"]),
];

/// Prints how much of each budget is used, and finds the crates that are over it.
pub fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, budget, folders) in BUDGETS {
        let Size { lines, code } = measure(files, folders);
        println!("{name}: {code} of {budget} lines of code outside tests ({lines} with comments)");
        if code > budget {
            let what = format!("{code} lines of code outside tests; the budget is {budget}");
            findings.push(Finding::new(folders[0], 0, what));
        }
    }
    findings
}

/// How long something is outside tests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Size {
    /// All lines.
    lines: usize,
    /// Lines that are neither blank nor wholly comment; this is what a budget limits.
    code: usize,
}

/// The size of the Rust and WGSL files in `folders`.
fn measure(files: &[File], folders: &[&str]) -> Size {
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
    let counted = own.iter().filter(|(file, _)| {
        !tests.iter().any(|test| {
            let rest = file.path.strip_prefix(test.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        })
    });
    counted.fold(Size::default(), |sum, (file, scan)| {
        let own = size(file, scan);
        Size { lines: sum.lines + own.lines, code: sum.code + own.code }
    })
}

/// The size of one file without its test items.
fn size(file: &File, scan: &Scan) -> Size {
    let tests: Vec<_> = scan
        .test_items()
        .into_iter()
        .map(|item| line_of(&scan.code, item.start)..=line_of(&scan.code, item.end - 1))
        .collect();
    let comments: String = scan.comments.iter().collect();
    let mut size = Size::default();
    for (at, (line, comment)) in file.text.lines().zip(comments.lines()).enumerate() {
        if tests.iter().any(|range| range.contains(&(at + 1))) {
            continue;
        }
        size.lines += 1;
        // A blank line is like its comment half, too: both are empty.
        size.code += usize::from(line.trim() != comment.trim());
    }
    size
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
        File { path: path.to_string(), text: text.to_string() }
    }

    #[test]
    fn tests_do_not_count_wherever_they_stand() {
        let files = [
            file("c/src/lib.rs", "mod a;\n#[cfg(test)]\nmod checks;\n"),
            file("c/src/checks.rs", "fn t() {}\n"),
            file("c/src/checks/deep.rs", "fn t() {}\n"),
            file("c/src/checks_of_users.rs", "fn counts() {}\n"),
            file("c/src/a.rs", "fn a() {}\n\n// Why.\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n"),
            file("c/src/b.rs", "#[cfg(test)]\nmod tests;\nfn b() {}\n"),
            file("c/src/b/tests.rs", "fn t() {}\n"),
            file("c/src/notes.md", "words\n"),
            file("c/tests/t.rs", "fn t() {}\n"),
            file("s/x.wgsl", "// Header.\nfn f() {}\n"),
        ];
        let rust = Size { lines: 6, code: 4 };
        assert_eq!(measure(&files, &["c/src/"]), rust);
        let both = Size { lines: 8, code: 5 };
        assert_eq!(measure(&files, &["c/src/", "s/"]), both);
    }
}
