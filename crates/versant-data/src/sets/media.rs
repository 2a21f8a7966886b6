//! Pictures and sounds.

use std::path::Path;

use crate::audio::Sound;
use crate::dataset::{Image, Parts};
use crate::error::{ReadError, Result};
use crate::{fashion_mnist, picture, voc};

/// MNIST (LeCun, Cortes and Burges, 1998): 60,000 and 10,000 handwritten digits, `[n, 1, 28, 28]`, values from 0 to 1.
///
/// # Errors
/// As [`fashion_mnist::full`].
pub fn mnist(dir: impl AsRef<Path>) -> Result<Parts> {
    fashion_mnist::folder(dir.as_ref(), "", (0..10).map(|digit| digit.to_string()))
}

/// An aerial picture and the tree crowns in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// The name of the site.
    pub name: &'static str,
    /// `[3, height, width]`, values from 0 to 1.
    pub image: Image,
    /// The crowns' boxes.
    pub annotation: voc::Annotation,
}

/// Three aerial pictures with boxes around 61, 37 and 279 crowns (Weinstein et al., "DeepForest", 2020): two of 400×400
/// pixels, one larger. The class is `Tree`, but for 37 boxes of the larger one that are `Alive` or `Dead`.
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read) for a file that is missing or damaged, or sizes that differ.
pub fn trees(dir: impl AsRef<Path>) -> Result<Vec<Tree>> {
    let one = |name: &'static str| {
        let image = picture::read(dir.as_ref().join(format!("{name}.png")))?;
        let path = dir.as_ref().join(format!("{name}.xml"));
        let annotation = voc::read(&path)?;
        let [_, height, width] = image.shape();
        if annotation.size.map(|v| v as usize) != [width, height] {
            return Err(ReadError::Unexpected {
                file: path.display().to_string(),
                expected: format!("the size of the picture, {width}×{height}"),
                found: format!("{:?}", annotation.size),
            }
            .into());
        }
        Ok(Tree { name, image, annotation })
    };
    ["OSBS_029", "SOAP_061", "2019_YELL_2_541000_4977000_image_crop"].into_iter().map(one).collect()
}

/// The languages of the telephone prompts, one speaker each: US English, Mexican Spanish, Canadian French, Italian and
/// Russian.
pub const LANGUAGES: [&str; 5] = ["en", "es", "fr", "it", "ru"];

/// A recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// The number of the language in [`LANGUAGES`].
    pub language: usize,
    /// The file's path inside the language's folder, without its end: `digits/7`, `vm-goodbye`.
    pub name: String,
    /// One channel at 8 kHz.
    pub sound: Sound,
}

/// The digits 0 to 9 in five languages, 50 clips, and what each says.
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read).
pub fn spoken_digits(dir: impl AsRef<Path>) -> Result<Vec<(Clip, i32)>> {
    let mut clips = Vec::new();
    for (language, folder) in LANGUAGES.into_iter().enumerate() {
        for digit in 0..10 {
            let name = format!("digits/{digit}");
            let sound = Sound::read(dir.as_ref().join(folder).join(format!("{name}.wav")))?;
            clips.push((Clip { language, name, sound }, digit));
        }
    }
    Ok(clips)
}

/// All prompts of all languages, about 550 each, sorted by language and name.
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read).
pub fn spoken(dir: impl AsRef<Path>) -> Result<Vec<Clip>> {
    let mut clips = Vec::new();
    for (language, folder) in LANGUAGES.into_iter().enumerate() {
        let root = dir.as_ref().join(folder);
        let mut names = Vec::new();
        wav_files(&root, "", &mut names)?;
        names.sort();
        for name in names {
            let sound = Sound::read(root.join(format!("{name}.wav")))?;
            clips.push(Clip { language, name, sound });
        }
    }
    Ok(clips)
}

/// Collects the names of WAV files, without their end; folders are not followed deeper than three levels.
fn wav_files(folder: &Path, prefix: &str, names: &mut Vec<String>) -> Result<(), ReadError> {
    let io = |source| ReadError::Io { file: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if path.is_dir() && prefix.matches('/').count() < 3 {
            wav_files(&path, &format!("{prefix}{stem}/"), names)?;
        } else if path.extension().is_some_and(|end| end == "wav") {
            names.push(format!("{prefix}{stem}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sets::fetched;

    #[test]
    fn missing_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for (error, name) in [
            (mnist(dir.path()).unwrap_err(), "train-images-idx3-ubyte"),
            (trees(dir.path()).unwrap_err(), "OSBS_029.png"),
            (spoken_digits(dir.path()).unwrap_err(), "0.wav"),
            (spoken(dir.path()).unwrap_err(), "en"),
        ] {
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn fetched_media_are_whole() {
        if let Some(dir) = fetched("mnist") {
            let Parts { train, test } = mnist(dir).unwrap();
            assert_eq!(train.class_counts(), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]);
            assert_eq!((test.len(), &test.labels()[..4]), (10_000, &[7, 2, 1, 0][..]));
        }
        if let Some(dir) = fetched("trees") {
            let trees = trees(dir).unwrap();
            let boxes = trees.iter().map(|tree| tree.annotation.objects.len());
            assert_eq!(boxes.collect::<Vec<_>>(), [61, 37, 279]);
            assert_eq!(trees[0].image.shape(), [3, 400, 400]);
            let others = trees.iter().flat_map(|tree| &tree.annotation.objects).filter(|o| o.class != "Tree");
            assert_eq!(others.count(), 37);
        }
        if let Some(dir) = fetched("asterisk-sounds") {
            let digits = spoken_digits(&dir).unwrap();
            assert_eq!(digits.len(), 50);
            let one_second =
                |clip: &Clip| clip.sound.rate() == 8000 && (0.2..2.0).contains(&clip.sound.seconds());
            assert!(digits.iter().all(|(clip, _)| one_second(clip) && clip.sound.channels() == 1));
            let all = spoken(&dir).unwrap();
            for (language, name) in LANGUAGES.into_iter().enumerate() {
                let count = all.iter().filter(|clip| clip.language == language).count();
                assert!((500..700).contains(&count), "{name}: {count}");
            }
        }
    }
}
