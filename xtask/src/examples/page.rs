//! docs/gallery.md.

use std::fmt::Write;
use std::fs;

use serde_json::Value;

use super::table::{EXAMPLES, Example};
use crate::error::{Error, Result};
use crate::run;

const HEAD: &str = "# Gallery

Made by `cargo xtask examples --python PYTHON`; do not edit. Each example is one file in
[`crates/versant/examples`](../crates/versant/examples), and has a twin in PyTorch with the same net, data and recipe in
[`benches/reference`](../benches/reference). Figures are means over the seeds, and in brackets the range from least to largest and the number of seeds.
\"Within\" says whether our mean is no worse than the twin's by more than the larger of the two ranges. Times are the least
of the runs', on the CPU of the machine that measured, which did other things meanwhile: they show the order only. The short runs are a few steps on little
data, with the same seed on both devices: they show that software Vulkan computes the same, not how good the net is.

";

/// Writes the page.
pub fn write(all: &Value) -> Result<()> {
    let mut page = HEAD.to_owned();
    page += "| example | data | figure | ours, CPU | twin | within | seconds, ours / twin | short run, CPU | short run, lavapipe |\n";
    page += "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for example in EXAMPLES {
        let found = &all[example.name];
        let cell = |part: &str| {
            Spread::of(&found[part][example.metric]).map_or_else(|| "not measured".to_owned(), |s| s.shown())
        };
        let seconds = |part: &str| {
            Spread::of(&found[part]["seconds"]).map_or_else(|| "?".to_owned(), |s| format!("{:.0}", s.least))
        };
        let _ = writeln!(
            page,
            "| [{0}](../crates/versant/examples/{0}.rs) | {1} | {2} ({3}) | {4} | {5} | {6} | {7} / {8} | {9} | {10} |",
            example.name,
            example.data,
            example.metric,
            if example.lower { "less is better" } else { "more is better" },
            cell("cpu"),
            cell("twin"),
            verdict(example, found),
            seconds("cpu"),
            seconds("twin"),
            cell("quick cpu"),
            cell("quick lavapipe"),
        );
    }
    // What was not measured has left no pictures.
    for example in EXAMPLES.iter().filter(|e| all[e.name].is_object()) {
        section(&mut page, example, &all[example.name]);
    }
    let path = run::root().join("docs/gallery.md");
    fs::write(&path, page).map_err(Error::at(&path))
}

/// The example's title, its further figures, and its pictures.
fn section(page: &mut String, example: &Example, found: &Value) {
    let _ = writeln!(page, "\n## {}: {}\n", example.name, example.title);
    let further = found["cpu"].as_object().into_iter().flatten();
    for (name, values) in further.filter(|(name, _)| **name != example.metric && *name != "seconds") {
        let ours = Spread::of(values).map_or_else(String::new, |s| s.shown());
        let twin = Spread::of(&found["twin"][name]).map_or_else(|| "not measured".to_owned(), |s| s.shown());
        let _ = writeln!(page, "* {name}: ours {ours}, twin {twin}");
    }
    for picture in example.pictures {
        let _ = writeln!(page, "\n![{0}: {picture}](images/gallery/{0}-{picture})", example.name);
    }
}

/// The mean and the ends of some values.
struct Spread {
    mean: f64,
    least: f64,
    largest: f64,
    count: usize,
}

impl Spread {
    fn of(values: &Value) -> Option<Spread> {
        let values: Vec<f64> = values.as_array()?.iter().filter_map(Value::as_f64).collect();
        let count = values.len();
        (count > 0).then(|| Spread {
            mean: values.iter().sum::<f64>() / count as f64,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            largest: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            count,
        })
    }

    fn shown(&self) -> String {
        let Spread { mean, least, largest, count } = self;
        if *count > 1 {
            format!("{mean:.4} ({least:.4} to {largest:.4}; {count})")
        } else {
            format!("{mean:.4}")
        }
    }
}

/// Whether our mean is as good as the twin's, but for the seeds.
fn verdict(example: &Example, found: &Value) -> &'static str {
    let both = (Spread::of(&found["cpu"][example.metric]), Spread::of(&found["twin"][example.metric]));
    let (Some(ours), Some(twin)) = both else { return "?" };
    let worse = if example.lower { ours.mean - twin.mean } else { twin.mean - ours.mean };
    let range = (ours.largest - ours.least).max(twin.largest - twin.least);
    if worse <= range { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn worse_by_more_than_the_seeds_is_seen() {
        let example = &EXAMPLES[0];
        let with = |ours: f64| json!({"cpu": {example.metric: [ours, ours + 0.01]}, "twin": {example.metric: [0.9, 0.92]}});
        assert_eq!(verdict(example, &with(0.95)), "yes");
        assert_eq!(verdict(example, &with(0.89)), "yes");
        assert_eq!(verdict(example, &with(0.87)), "no");
        assert_eq!(verdict(example, &json!({})), "?");
    }
}
