//! Readers of the sets that `cargo xtask data NAME` fetches into `data/fetched/NAME`; each takes that folder.
//!
//! | reader | set | licence of the data |
//! | --- | --- | --- |
//! | [`mnist`] | `mnist` | commonly CC BY-SA 3.0 |
//! | [`moby_dick`] | `moby-dick` | CC0 |
//! | [`tweets`] and the like | `vader` | texts of third parties: to be used, not to be passed on |
//! | [`translations`] | `translation` | each description is under its package's licence |
//! | [`breast_cancer`] | `breast-cancer` | CC BY 4.0 |
//! | [`pima`], [`hdma`] | `pydataset` | MIT package |
//! | [`adult`] | `fairness` | CC BY 4.0 (UCI) |
//! | [`stocks`] | `stocks` | public domain |
//! | [`trees`] | `trees` | MIT |
//! | [`spoken`], [`spoken_digits`] | `asterisk-sounds` | CC BY 3.0 and CC BY-SA 3.0 |
//!
//! Files are read like any others: what is missing or damaged is a typed error, not a panic.

mod media;
mod tables;
mod texts;

pub use media::{Clip, LANGUAGES, Tree, mnist, spoken, spoken_digits, trees};
pub use tables::{Day, Measured, People, Stock, adult, breast_cancer, hdma, pima, stocks};
pub use texts::{Rated, moby_dick, movie_reviews, news, product_reviews, translations, tweets};

/// The folder of a fetched set in this workspace, for tests; `None`, and a note, if it was not fetched.
#[cfg(test)]
fn fetched(name: &str) -> Option<std::path::PathBuf> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/fetched").join(name);
    if !dir.exists() {
        eprintln!("skipped: {} is not there", dir.display());
    }
    dir.exists().then_some(dir)
}
