//! Prose, rated texts and translated pairs.

use std::collections::HashMap;
use std::path::Path;

use crate::error::{ReadError, Result};
use crate::file;

fn text(path: &Path) -> Result<String, ReadError> {
    let bytes = file::read(path, file::DEFAULT_LIMIT)?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        fault(path, line, "not UTF-8")
    })
}

fn fault(path: &Path, line: usize, detail: &str) -> ReadError {
    ReadError::Text { file: path.display().to_string(), line, detail: detail.to_owned() }
}

/// The text of Moby Dick (Herman Melville, 1851): 1.2 million characters, 83 different ones.
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read).
pub fn moby_dick(dir: impl AsRef<Path>) -> Result<String> {
    Ok(text(&dir.as_ref().join("data.txt"))?)
}

/// A short text and its mean rating by 20 people, from -4 (very negative) to 4 (very positive).
#[derive(Clone, Debug, PartialEq)]
pub struct Rated {
    /// The mean rating.
    pub score: f32,
    /// The text.
    pub text: String,
}

/// 4,200 tweets with ratings (Hutto and Gilbert, "VADER", 2014).
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read).
pub fn tweets(dir: impl AsRef<Path>) -> Result<Vec<Rated>> {
    rated(&dir.as_ref().join("tweets_GroundTruth.txt"))
}

/// 3,708 sentences from reviews of products, as [`tweets`].
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read).
pub fn product_reviews(dir: impl AsRef<Path>) -> Result<Vec<Rated>> {
    rated(&dir.as_ref().join("amazonReviewSnippets_GroundTruth.txt"))
}

/// 10,605 sentences from reviews of films, as [`tweets`].
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read).
pub fn movie_reviews(dir: impl AsRef<Path>) -> Result<Vec<Rated>> {
    rated(&dir.as_ref().join("movieReviewSnippets_GroundTruth.txt"))
}

/// 5,190 sentences from newspaper editorials, as [`tweets`].
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read).
pub fn news(dir: impl AsRef<Path>) -> Result<Vec<Rated>> {
    rated(&dir.as_ref().join("nytEditorialSnippets_GroundTruth.txt"))
}

/// Lines of number, rating and text, separated by tabs.
fn rated(path: &Path) -> Result<Vec<Rated>> {
    let content = text(path)?;
    let lines = content.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let parse = |(line, number): (&str, usize)| {
        let mut fields = line.splitn(3, '\t').skip(1);
        let (score, text) = (fields.next(), fields.next());
        let score =
            score.and_then(|score| score.trim().parse::<f32>().ok()).filter(|score| score.is_finite());
        match (score, text) {
            (Some(score), Some(text)) => Ok(Rated { score, text: text.trim().to_owned() }),
            _ => Err(fault(path, number, "expected a number, a rating and a text with tabs between").into()),
        }
    };
    lines.map(parse).collect()
}

/// Short descriptions of Debian's packages in English and in another language (`"de"` or `"fr"`), those that are whole
/// in both; sorted, each pair once.
///
/// # Errors
/// [`DataError::Read`](crate::DataError::Read).
pub fn translations(dir: impl AsRef<Path>, language: &str) -> Result<Vec<(String, String)>> {
    let read = |language: &str| {
        let path = dir.as_ref().join(format!("Translation-{language}"));
        Ok::<_, ReadError>(descriptions(&text(&path)?, language))
    };
    let (english, other) = (read("en")?, read(language)?);
    let pair = |(sum, translated): (&String, &String)| Some((english.get(sum)?.clone(), translated.clone()));
    let mut pairs: Vec<(String, String)> = other.iter().filter_map(pair).collect();
    pairs.sort();
    pairs.dedup();
    Ok(pairs)
}

/// The first lines of descriptions by the checksum of the English original, from a list in Debian's control format;
/// `<trans>` marks one that is not translated yet.
fn descriptions(list: &str, language: &str) -> HashMap<String, String> {
    let field = format!("Description-{language}: ");
    let mut found = HashMap::new();
    for paragraph in list.split("\n\n") {
        let value = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name));
        if let (Some(sum), Some(text)) = (value("Description-md5: "), value(&field))
            && !text.contains("<trans>")
        {
            found.insert(sum.trim().to_owned(), text.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sets::fetched;

    #[test]
    fn rated_lines_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tweets_GroundTruth.txt");
        std::fs::write(&path, "1\t2.5\tSo good!\tReally.\r\n\r\n2\t-1\t Bad. \r\n").unwrap();
        let rated = tweets(dir.path()).unwrap();
        assert_eq!(rated[0], Rated { score: 2.5, text: "So good!\tReally.".to_owned() });
        assert_eq!((rated[1].score, rated[1].text.as_str(), rated.len()), (-1.0, "Bad.", 2));
        for bad in ["1\tx\ttext", "1\t2", "\n\n1\tNaN\ttext", "1"] {
            std::fs::write(&path, bad).unwrap();
            let error = tweets(dir.path()).unwrap_err().to_string();
            let line = bad.matches('\n').count() + 1;
            assert!(error.contains(&format!("line {line}: expected a number")), "{error}");
        }
        std::fs::write(&path, b"1\t2\tok\n2\t1\t\xff").unwrap();
        assert!(tweets(dir.path()).unwrap_err().to_string().ends_with("line 2: not UTF-8"));
        assert!(news(dir.path()).is_err());
    }

    #[test]
    fn pairs_are_joined_by_checksum() {
        let dir = tempfile::tempdir().unwrap();
        let paragraph = |sum: &str, language: &str, text: &str| {
            format!("Package: p\nDescription-md5: {sum}\nDescription-{language}: {text}\n long\n text\n\n")
        };
        let english = ["game", "editor", "tool"].map(|t| paragraph(&format!("m{t}"), "en", t)).concat();
        let german = [("mgame", "Spiel"), ("mtool", "<trans>"), ("mnone", "nichts"), ("meditor", "Editor")];
        let german = german.map(|(sum, t)| paragraph(sum, "de", t)).concat();
        std::fs::write(dir.path().join("Translation-en"), english).unwrap();
        std::fs::write(dir.path().join("Translation-de"), german).unwrap();
        let pairs = translations(dir.path(), "de").unwrap();
        let expected = [("editor", "Editor"), ("game", "Spiel")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(pairs, expected);
        assert!(translations(dir.path(), "fr").is_err());
    }

    #[test]
    fn fetched_texts_are_whole() {
        if let Some(dir) = fetched("moby-dick") {
            let text = moby_dick(dir).unwrap();
            let characters = crate::text::Characters::of(&text);
            assert_eq!((text.chars().count(), characters.len()), (1_190_317, 83));
        }
        if let Some(dir) = fetched("vader") {
            let counts = [tweets(&dir), product_reviews(&dir), movie_reviews(&dir), news(&dir)];
            assert_eq!(counts.map(|rated| rated.unwrap().len()), [4200, 3708, 10_605, 5190]);
        }
        if let Some(dir) = fetched("translation") {
            for (language, least) in [("de", 12_000), ("fr", 18_000)] {
                let pairs = translations(&dir, language).unwrap();
                assert!(pairs.len() > least, "{language}: {}", pairs.len());
            }
        }
    }
}
