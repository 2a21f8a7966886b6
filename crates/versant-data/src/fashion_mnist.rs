//! Fashion-MNIST (Zalando Research, 2017; MIT licence): 28×28 grey pictures of clothing in ten classes.

use std::path::Path;

use crate::dataset::{Dataset, Images, Parts};
use crate::error::{ReadError, Result};
use crate::file;
use crate::idx::Idx;

/// The classes, by label.
pub const CLASSES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// The file names of a part: images, labels. The test part is called `t10k`.
const TRAIN: [&str; 2] = ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"];
const TEST: [&str; 2] = ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"];

macro_rules! embedded {
    ($name:literal) => {
        include_bytes!(concat!("../../../data/fashion-mnist/", $name))
    };
}

/// The subset compiled into this crate: the first 3,000 training and the first 500 test images,
/// `[n, 1, 28, 28]`, values from 0 to 1.
///
/// # Errors
/// None for the files as committed; they go through the same checks as any others.
///
/// ```
/// let set = versant_data::fashion_mnist::embedded()?;
/// assert_eq!(set.train.images().shape(), [3000, 1, 28, 28]);
/// assert_eq!(set.train.classes()[set.train.labels()[0] as usize], "Ankle boot");
/// # Ok::<(), versant_data::DataError>(())
/// ```
pub fn embedded() -> Result<Parts> {
    let train: [&[u8]; 2] =
        [embedded!("train-images-idx3-ubyte.gz"), embedded!("train-labels-idx1-ubyte.gz")];
    let test: [&[u8]; 2] = [embedded!("t10k-images-idx3-ubyte.gz"), embedded!("t10k-labels-idx1-ubyte.gz")];
    let part = |files: [&[u8]; 2], names: [&str; 2]| {
        let load = |i: usize| {
            let name = format!("embedded {}", names[i]);
            let bytes = file::inflate_slice(files[i], file::DEFAULT_LIMIT, &name)?;
            Ok::<_, ReadError>((Idx::parse(bytes, &name)?, name))
        };
        assemble(load(0)?, load(1)?, CLASSES)
    };
    Ok(Parts { train: part(train, TRAIN)?, test: part(test, TEST)? })
}

/// The whole set, 60,000 and 10,000 images, from a folder with the four gzipped IDX files under their original
/// names, as `cargo xtask data fashion-mnist` puts them into `data/fetched/fashion-mnist`.
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read) naming the file that is missing, damaged or of another shape, and
/// the label errors of [`Dataset::new`].
pub fn full(dir: impl AsRef<Path>) -> Result<Parts> {
    folder(dir.as_ref(), ".gz", CLASSES)
}

/// A set in four files named as this one's; `end` follows the names.
pub(crate) fn folder<S: Into<String>>(
    dir: &Path,
    end: &str,
    classes: impl IntoIterator<Item = S> + Clone,
) -> Result<Parts> {
    let part = |names: [&str; 2]| {
        let load = |name: &str| {
            let path = dir.join(format!("{}{end}", name.trim_end_matches(".gz")));
            Idx::read(&path).map(|idx| (idx, path.display().to_string()))
        };
        assemble(load(names[0])?, load(names[1])?, classes.clone())
    };
    Ok(Parts { train: part(TRAIN)?, test: part(TEST)? })
}

fn assemble<S: Into<String>>(
    images: (Idx, String),
    labels: (Idx, String),
    classes: impl IntoIterator<Item = S>,
) -> Result<Dataset> {
    let (dims, pixels) = images.0.into_bytes(3, &images.1)?;
    if dims[1..] != [28, 28] {
        return Err(ReadError::Unexpected {
            file: images.1,
            expected: "images of 28×28".to_owned(),
            found: format!("extents {dims:?}"),
        }
        .into());
    }
    let (_, labels) = labels.0.into_bytes(1, &labels.1)?;
    let images = Images::from_bytes(pixels, [dims[0], 1, 28, 28])?;
    Dataset::new(images, labels.into_iter().map(i32::from).collect(), classes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::DataError;

    fn byte_sum(set: &Dataset) -> u64 {
        (0..set.len())
            .flat_map(|i| set.images().get(i).unwrap().data().to_vec())
            .map(|v| (v * 255.0).round() as u64)
            .sum()
    }

    #[test]
    fn the_embedded_subset_is_what_it_should_be() {
        let Parts { train, test } = embedded().unwrap();
        assert_eq!(train.images().shape(), [3000, 1, 28, 28]);
        assert_eq!(test.images().shape(), [500, 1, 28, 28]);
        assert_eq!(train.labels()[..10], [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]);
        assert_eq!(test.labels()[..10], [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]);
        // Counted with Python when the subset was cut, independently of this reader.
        assert_eq!(train.class_counts(), [282, 321, 290, 312, 303, 300, 298, 312, 287, 295]);
        assert_eq!(test.class_counts(), [55, 52, 65, 46, 57, 39, 47, 47, 44, 48]);
        assert_eq!((byte_sum(&train), byte_sum(&test)), (170_623_628, 29_494_551));
    }

    #[test]
    fn a_folder_is_read_like_the_embedded_files_and_its_faults_are_named() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/fashion-mnist");
        assert_eq!(full(&source).unwrap(), embedded().unwrap());

        let dir = tempfile::tempdir().unwrap();
        let missing = full(dir.path()).unwrap_err().to_string();
        assert!(missing.contains(TRAIN[0]), "{missing}");
        for name in TRAIN.iter().chain(&TEST) {
            std::fs::copy(source.join(name), dir.path().join(name)).unwrap();
        }
        // Labels in place of images, and a count that does not match.
        std::fs::copy(source.join(TEST[1]), dir.path().join(TEST[0])).unwrap();
        let error = full(dir.path()).unwrap_err();
        assert!(matches!(error, DataError::Read(ReadError::Unexpected { .. })), "{error}");
        std::fs::copy(source.join(TRAIN[0]), dir.path().join(TEST[0])).unwrap();
        let error = full(dir.path()).unwrap_err();
        assert!(matches!(error, DataError::Lengths { left_len: 3000, right_len: 500, .. }));
        std::fs::write(dir.path().join(TEST[0]), b"hello").unwrap();
        let error = full(dir.path()).unwrap_err().to_string();
        assert!(error.contains("not an IDX file") && error.contains(TEST[0]), "{error}");
    }
}
