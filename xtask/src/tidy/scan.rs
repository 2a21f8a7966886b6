//! Splitting source text into code and comments, enough of a lexer for Rust and for WGSL.
//!
//! Both halves keep the line structure of the file, and every other character becomes a space; so a word in
//! a string is neither code nor comment, and a brace in a string does not count as one.

use std::ops::Range;

/// A file taken apart.
pub struct Scan {
    /// The code with comments and the insides of strings and characters blanked.
    pub code: Vec<char>,
    /// The comments with all else blanked.
    pub comments: Vec<char>,
}

/// A function with a body.
#[derive(Debug, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of its `fn`, from 1.
    pub line: usize,
    /// How many lines it has, from `fn` to the closing brace.
    pub lines: usize,
}

impl Scan {
    /// Takes a file apart. Text that is not valid Rust or WGSL gives some answer, never a panic.
    pub fn new(text: &str) -> Self {
        let text: Vec<char> = text.chars().collect();
        let blank = |c: &char| if *c == '\n' { '\n' } else { ' ' };
        let mut scan =
            Self { code: text.iter().map(blank).collect(), comments: text.iter().map(blank).collect() };
        let mut at = 0;
        while at < text.len() {
            at = if text[at..].starts_with(&['/', '/']) || text[at..].starts_with(&['/', '*']) {
                let end = comment_end(&text, at);
                scan.comments[at..end].copy_from_slice(&text[at..end]);
                end
            } else if let Some(end) = literal_end(&text, at) {
                end
            } else {
                scan.code[at] = text[at];
                at + 1
            };
        }
        scan
    }

    /// Every function that has a body, nested ones too.
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for at in self.words("fn") {
            let name: String = self.code[at + 2..]
                .iter()
                .skip_while(|c| c.is_whitespace())
                .take_while(|c| is_word(**c))
                .collect();
            let end = self.item_end(at);
            if name.is_empty() || !self.code[at..end].ends_with(&['}']) {
                continue; // A function type, or a declaration without a body.
            }
            found.push(Function {
                name,
                line: line_of(&self.code, at),
                lines: count_newlines(&self.code[at..end]) + 1,
            });
        }
        found
    }

    /// The items under `#[cfg(test)]`, as ranges of characters.
    pub fn test_items(&self) -> Vec<Range<usize>> {
        let mark: Vec<char> = "#[cfg(test)]".chars().collect();
        let mut found: Vec<Range<usize>> = Vec::new();
        for at in 0..self.code.len() {
            let inside = found.last().is_some_and(|range| range.contains(&at));
            if !inside && self.code[at..].starts_with(&mark) {
                found.push(at..self.item_end(at + mark.len()));
            }
        }
        found
    }

    /// The names of modules declared as `#[cfg(test)] mod NAME;`, which stand in files of their own.
    pub fn test_modules(&self) -> Vec<String> {
        let declaration = |range: Range<usize>| {
            let text: String = self.code[range].iter().collect();
            let name = text.strip_suffix(';')?.rsplit_once("mod ")?.1;
            Some(name.to_string())
        };
        self.test_items().into_iter().filter_map(declaration).collect()
    }

    /// Where `word` stands in the code as a word of its own.
    pub fn words(&self, word: &str) -> Vec<usize> {
        words(&self.code, word)
    }

    /// The end of the item that starts at `from`: after its `;`, or after the brace that closes its body.
    fn item_end(&self, from: usize) -> usize {
        let (mut round, mut curly) = (0_i32, 0_i32);
        let ends = |&at: &usize| {
            match self.code[at] {
                '(' | '[' => round += 1,
                ')' | ']' => round -= 1,
                '{' => curly += 1,
                '}' => curly -= 1,
                _ => {}
            }
            // The braces of `use x::{y, z};` are followed by the `;`, those of a body are not.
            let outside = round == 0 && curly == 0;
            let last = self.code[at + 1..].iter().find(|c| !c.is_whitespace());
            outside && (self.code[at] == ';' || (self.code[at] == '}' && last != Some(&';')))
        };
        let end = (from..self.code.len()).find(ends);
        end.map_or(self.code.len(), |at| at + 1)
    }
}

/// Where `word` stands in `text` as a word of its own.
pub fn words(text: &[char], word: &str) -> Vec<usize> {
    let word: Vec<char> = word.chars().collect();
    (0..text.len())
        .filter(|&at| {
            text[at..].starts_with(&word)
                && (at == 0 || !is_word(text[at - 1]))
                && text.get(at + word.len()).is_none_or(|c| !is_word(*c))
        })
        .collect()
}

/// The line, from 1, on which a character stands.
pub fn line_of(text: &[char], at: usize) -> usize {
    count_newlines(&text[..at]) + 1
}

fn count_newlines(text: &[char]) -> usize {
    text.iter().filter(|c| **c == '\n').count()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The end of the comment that starts at `at`; block comments nest, in both languages.
fn comment_end(text: &[char], at: usize) -> usize {
    if text[at + 1] == '/' {
        let length = text[at..].iter().position(|c| *c == '\n');
        return length.map_or(text.len(), |length| at + length);
    }
    let mut depth = 0;
    let mut next = at;
    while next < text.len() {
        if text[next..].starts_with(&['/', '*']) {
            depth += 1;
            next += 2;
        } else if text[next..].starts_with(&['*', '/']) {
            depth -= 1;
            next += 2;
            if depth == 0 {
                return next;
            }
        } else {
            next += 1;
        }
    }
    text.len()
}

/// The end of the string or character literal that starts at `at`, if one does.
fn literal_end(text: &[char], at: usize) -> Option<usize> {
    match text[at] {
        '"' => Some(quoted_end(text, at + 1, '"')),
        // `'a'` and `'\n'` are characters, `'a` is a lifetime.
        '\'' if text.get(at + 1) == Some(&'\\') => Some(quoted_end(text, at + 1, '\'')),
        '\'' if text.get(at + 2) == Some(&'\'') => Some(at + 3),
        'r' if at == 0 || !is_word(text[at - 1]) || is_raw_prefix(text, at) => {
            let hashes = text[at + 1..].iter().take_while(|c| **c == '#').count();
            let open = at + 1 + hashes;
            (text.get(open) == Some(&'"')).then(|| raw_end(text, open + 1, hashes))
        }
        _ => None,
    }
}

/// Whether the `r` at `at` is that of `br"…"` or `cr"…"`.
fn is_raw_prefix(text: &[char], at: usize) -> bool {
    matches!(text[at - 1], 'b' | 'c') && (at == 1 || !is_word(text[at - 2]))
}

fn quoted_end(text: &[char], mut at: usize, quote: char) -> usize {
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

fn raw_end(text: &[char], from: usize, hashes: usize) -> usize {
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    (from..text.len()).find(|&at| text[at..].starts_with(&close)).map_or(text.len(), |at| at + close.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(half: &[char]) -> String {
        half.iter().collect()
    }

    #[test]
    fn strings_and_comments_are_not_code() {
        let source = "let a = \"x { y\\\" }\"; // one {\nlet b = r#\"raw \" } \"#; /* two /* in */ } */ let c = '{';\n";
        let scan = Scan::new(source);
        assert!(!text(&scan.code).contains(['{', '}', 'x']));
        assert!(text(&scan.code).contains("let c"));
        assert!(text(&scan.comments).contains("// one {"));
        assert!(text(&scan.comments).contains("/* two /* in */ } */"));
        assert!(!text(&scan.comments).contains("let"));
        assert_eq!(line_of(&scan.code, scan.words("c")[0]), 2);
    }

    #[test]
    fn lifetimes_and_byte_strings_do_not_open_a_character() {
        let scan = Scan::new("fn f<'a>(x: &'a str) -> &'a str { br\"}\"; b'}'; '\\''; x }");
        assert_eq!(scan.functions(), [Function { name: "f".to_string(), line: 1, lines: 1 }]);
    }

    #[test]
    fn functions_are_measured_from_fn_to_the_closing_brace() {
        let source = "trait T {\n    fn no_body(&self, x: [u8; 4]);\n    fn body(&self) -> [u8; 2] {\n        if true {\n        }\n        [1, 2]\n    }\n}\ntype F = fn(u8);\nfn last() {}\n";
        let found = Scan::new(source).functions();
        let shown: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
        assert_eq!(shown, [("body", 3, 5), ("last", 10, 1)]);
    }

    #[test]
    fn wgsl_functions_are_measured_too() {
        let source = "@compute @workgroup_size(64)\nfn main(@builtin(global_invocation_id) id: vec3<u32>) {\n    let x = id.x;\n}\n";
        let found = Scan::new(source).functions();
        assert_eq!((found[0].line, found[0].lines), (2, 3));
    }

    #[test]
    fn test_items_are_found_with_their_ends() {
        let source = "fn a() {}\n#[cfg(test)]\nuse x::{y, z};\n#[cfg(test)]\n#[path = \"t.rs\"]\nmod far;\n#[cfg(test)]\nmod tests {\n    #[cfg(test)]\n    fn b() {}\n}\nfn c() {}\n";
        let scan = Scan::new(source);
        let items = scan.test_items();
        assert_eq!(items.len(), 3);
        assert!(text(&scan.code[items[0].clone()]).ends_with("{y, z};"));
        assert!(text(&scan.code[items[2].clone()]).ends_with("fn b() {}\n}"));
        assert_eq!(scan.test_modules(), ["far"]);
    }

    #[test]
    fn broken_text_gives_an_answer() {
        for source in ["\"", "'", "'\\", "r#\"", "/*", "fn", "fn f(", "#[cfg(test)]", "}}", "/* /*"] {
            let scan = Scan::new(source);
            scan.functions();
            scan.test_modules();
        }
    }
}
