//! The functions of `shaders/lib`, and which of them a module needs.
//!
//! The errors that the files state allow for a division of 2.5 ulp, as WGSL does. Measured on lavapipe against f64,
//! over two million random bit patterns each and as many arguments near 0, 1 and 10: at most 2.6 ulp everywhere
//! (`v_sin` and `v_cos`; the rest 2.5 or less), with all special values right and the remainder exact.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The files, each after those whose functions it calls. The first line of a file may say `// import: a b`.
const GROUPS: &[(&str, &str)] = &[
    ("bits", include_str!("../../../../shaders/lib/bits.wgsl")),
    ("cast", include_str!("../../../../shaders/lib/cast.wgsl")),
    ("half", include_str!("../../../../shaders/lib/half.wgsl")),
    ("extremes", include_str!("../../../../shaders/lib/extremes.wgsl")),
    ("compare", include_str!("../../../../shaders/lib/compare.wgsl")),
    ("sign", include_str!("../../../../shaders/lib/sign.wgsl")),
    ("divide", include_str!("../../../../shaders/lib/divide.wgsl")),
    ("wide", include_str!("../../../../shaders/lib/wide.wgsl")),
    ("long", include_str!("../../../../shaders/lib/long.wgsl")),
    ("philox", include_str!("../../../../shaders/lib/philox.wgsl")),
    ("exp", include_str!("../../../../shaders/lib/exp.wgsl")),
    ("log", include_str!("../../../../shaders/lib/log.wgsl")),
    ("erf", include_str!("../../../../shaders/lib/erf.wgsl")),
    ("trig", include_str!("../../../../shaders/lib/trig.wgsl")),
    ("atan", include_str!("../../../../shaders/lib/atan.wgsl")),
    ("fmod", include_str!("../../../../shaders/lib/fmod.wgsl")),
    ("pow", include_str!("../../../../shaders/lib/pow.wgsl")),
];

/// The group that stands for all of them.
const ALL: &str = "special";

/// A function or struct of the library.
struct Item {
    /// Its definition, without comments.
    text: String,
    /// Other items that it names, by number; all smaller.
    uses: Vec<usize>,
}

/// Every item, in the order of the files, and the numbers of their names.
struct Library {
    items: Vec<Item>,
    by_name: HashMap<String, usize>,
}

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let mut library = Library { items: Vec::new(), by_name: HashMap::new() };
    for (_, file) in GROUPS {
        for chunk in file.split("\n\n") {
            let code = chunk.lines().filter(|l| !l.starts_with("//"));
            let text: String = code.flat_map(|l| [l, "\n"]).collect();
            let head: Vec<&str> = identifiers(&text).take(2).collect();
            let ["fn" | "struct", name] = head[..] else {
                continue;
            };
            let name = name.to_owned();
            let uses = identifiers(&text).filter_map(|w| library.by_name.get(w).copied());
            let uses = uses.collect();
            library.by_name.insert(name, library.items.len());
            library.items.push(Item { text, uses });
        }
    }
    library
});

/// The names that [`MapFn::lib`](crate::MapFn) may have, besides none: one for each file of `shaders/lib`, and
/// `special` for all of them.
pub fn lib_groups() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().map(|g| g.0).chain([ALL])
}

/// The library functions that `text` calls, with those they call in turn; each once, in one order.
///
/// Whatever else a text defines must not begin with `v_`, as all of these do.
pub fn lib_for(text: &str) -> String {
    let Library { items, by_name } = &*LIBRARY;
    let mut wanted = vec![false; items.len()];
    for word in identifiers(text).filter(|w| w.starts_with("v_")) {
        if let Some(&i) = by_name.get(word) {
            wanted[i] = true;
        }
    }
    // An item uses only earlier ones, so one pass from the end marks everything.
    for i in (0..items.len()).rev() {
        if wanted[i] {
            items[i].uses.iter().for_each(|&u| wanted[u] = true);
        }
    }
    let chosen = items.iter().zip(wanted).filter(|(_, w)| *w);
    chosen.map(|(item, _)| &item.text[..]).collect()
}

/// The identifiers and numbers of a text.
pub(super) fn identifiers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| !w.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::check::{translate, validate};
    use super::*;

    fn imports(text: &'static str) -> impl Iterator<Item = &'static str> {
        let first = text.lines().next().unwrap_or("");
        let names = first.strip_prefix("// import:").unwrap_or("");
        names.split_whitespace()
    }

    /// A file with what it imports, in order.
    fn with_imports(name: &'static str) -> String {
        let mut wanted = vec![name];
        let mut files = Vec::new();
        for (group, text) in GROUPS.iter().rev() {
            if wanted.contains(group) {
                wanted.extend(imports(text));
                files.insert(0, *text);
            }
        }
        files.concat()
    }

    #[test]
    fn every_file_is_valid_with_its_imports_alone() {
        for (name, _) in GROUPS {
            let (module, info) = validate(&with_imports(name));
            translate(&module, &info);
        }
    }

    #[test]
    fn every_definition_became_an_item() {
        for (name, text) in GROUPS {
            let defined = text.lines().filter(|l| l.starts_with("fn ") || l.starts_with("struct "));
            for line in defined {
                let item = identifiers(line).nth(1).expect("a name");
                assert!(LIBRARY.by_name.contains_key(item), "{item} of {name}");
            }
        }
        assert_eq!(LIBRARY.items.len(), LIBRARY.by_name.len(), "a name twice");
    }

    #[test]
    fn each_item_stands_on_its_own_needs() {
        for name in LIBRARY.by_name.keys().filter(|n| n.starts_with("v_")) {
            let text = lib_for(name);
            validate(&text);
            assert_eq!(text.matches(&format!("fn {name}(")).count(), 1);
        }
        assert_eq!(lib_for("let x = exp(r0);"), "");
        assert_eq!(lib_for("v_exp(v_ln(x))"), lib_for("v_ln v_exp v_exp"));
        assert!(!lib_for("v_isnan(r0)").contains("v_is_inf"));
    }
}
