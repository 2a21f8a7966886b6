//! The function groups of `shaders/lib`, and which of them a module needs.

/// A group and its text. Its first line may be `// import: a b`, the groups that it calls.
const GROUPS: &[(&str, &str)] = &[
    ("bits", include_str!("../../../../shaders/lib/bits.wgsl")),
    ("cast", include_str!("../../../../shaders/lib/cast.wgsl")),
    (
        "extremes",
        include_str!("../../../../shaders/lib/extremes.wgsl"),
    ),
    (
        "compare",
        include_str!("../../../../shaders/lib/compare.wgsl"),
    ),
    ("sign", include_str!("../../../../shaders/lib/sign.wgsl")),
    (
        "integer",
        include_str!("../../../../shaders/lib/integer.wgsl"),
    ),
    ("wide", include_str!("../../../../shaders/lib/wide.wgsl")),
    (
        "philox",
        include_str!("../../../../shaders/lib/philox.wgsl"),
    ),
    ("exp", include_str!("../../../../shaders/lib/exp.wgsl")),
    ("log", include_str!("../../../../shaders/lib/log.wgsl")),
    ("erf", include_str!("../../../../shaders/lib/erf.wgsl")),
    ("trig", include_str!("../../../../shaders/lib/trig.wgsl")),
    ("atan", include_str!("../../../../shaders/lib/atan.wgsl")),
    ("fmod", include_str!("../../../../shaders/lib/fmod.wgsl")),
    ("pow", include_str!("../../../../shaders/lib/pow.wgsl")),
];

/// The names of all groups, in an order in which each stands after those it imports.
pub fn lib_groups() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().map(|g| g.0)
}

/// The text of the named groups (names separated by spaces; unknown ones cannot occur in a checked op table)
/// with everything they import, each group once, in the order of [`lib_groups`] whatever the order asked for.
pub fn lib_text<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut wanted = vec![false; GROUPS.len()];
    for name in names.into_iter().flat_map(str::split_whitespace) {
        mark(name, &mut wanted);
    }
    let chosen = GROUPS.iter().zip(&wanted).filter(|(_, w)| **w);
    chosen.map(|((_, text), _)| *text).collect()
}

fn mark(name: &str, wanted: &mut [bool]) {
    let at = GROUPS
        .iter()
        .position(|g| g.0 == name)
        .expect("an op names a group of shaders/lib; a test of the table checks it");
    if !std::mem::replace(&mut wanted[at], true) {
        imports(GROUPS[at].1).for_each(|n| mark(n, wanted));
    }
}

fn imports(text: &'static str) -> impl Iterator<Item = &'static str> {
    let first = text.lines().next().unwrap_or("");
    first
        .strip_prefix("// import:")
        .unwrap_or("")
        .split_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_stands_after_its_imports() {
        let names: Vec<&str> = lib_groups().collect();
        for (at, (name, text)) in GROUPS.iter().enumerate() {
            for import in imports(text) {
                assert!(names[..at].contains(&import), "{name} imports {import}");
            }
        }
    }

    #[test]
    fn text_holds_each_group_once() {
        let text = lib_text(["cast", "bits extremes", "cast"]);
        assert_eq!(text.matches("fn is_nan(").count(), 1);
        assert_eq!(lib_text([]), "");
        assert_eq!(lib_text(["cast bits"]), lib_text(["bits", "cast"]));
    }
}
