//! Boxes in pictures as the PASCAL VOC challenge writes them down: one XML file for each picture.

use std::path::Path;
use std::str::FromStr;

use roxmltree::{Document, Node};

use crate::error::ReadError;
use crate::file;
use crate::metrics::BoundingBox;

/// Largest annotation: 16 MiB.
const LIMIT: u64 = 16 << 20;

/// What is in one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Annotation {
    /// The picture's file name, as the annotation gives it.
    pub filename: String,
    /// `[width, height]` in pixels.
    pub size: [u32; 2],
    /// The things in it.
    pub objects: Vec<Object>,
}

/// A thing in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// The name of its class.
    pub class: String,
    /// Its box in pixels, as it stands in the file: the corners are pixels inside the box, counted from 1 in VOC's own
    /// sets.
    pub bounds: BoundingBox,
    /// Whether it is marked as hard to see, which evaluation leaves out.
    pub difficult: bool,
}

/// Reads an annotation.
///
/// # Errors
/// As [`file::read`] and [`parse`].
pub fn read(path: impl AsRef<Path>) -> Result<Annotation, ReadError> {
    let path = path.as_ref();
    parse(&file::read(path, LIMIT)?, &path.display().to_string())
}

/// The annotation in the bytes of a file; `name` is for messages.
///
/// ```
/// let xml = b"<annotation><filename>a.png</filename><size><width>9</width><height>5</height></size>
///     <object><name>tree</name><bndbox>
///     <xmin>1</xmin><ymin>2</ymin><xmax>4.5</xmax><ymax>5</ymax></bndbox></object></annotation>";
/// let annotation = versant_data::voc::parse(xml, "a.xml")?;
/// assert_eq!((annotation.size, annotation.objects[0].class.as_str()), ([9, 5], "tree"));
/// assert_eq!(annotation.objects[0].bounds.area(), 3.5 * 3.0);
/// # Ok::<(), versant_data::ReadError>(())
/// ```
///
/// # Errors
/// [`ReadError::Voc`] for what is no XML or lacks an element, a number that is none, and a box that is inside out.
pub fn parse(bytes: &[u8], name: &str) -> Result<Annotation, ReadError> {
    let fault = |detail: String| ReadError::Voc { file: name.to_owned(), detail };
    let text = std::str::from_utf8(bytes).map_err(|e| fault(e.to_string()))?;
    // Document type declarations, and with them entities that grow without end, are refused by default.
    let document = Document::parse(text).map_err(|e| fault(e.to_string()))?;
    annotation(document.root_element()).map_err(fault)
}

fn annotation(root: Node) -> Result<Annotation, String> {
    if !root.has_tag_name("annotation") {
        return Err(format!("begins with <{}>", root.tag_name().name()));
    }
    let size = child(root, "size")?;
    let objects = root.children().filter(|node| node.has_tag_name("object"));
    Ok(Annotation {
        filename: text(root, "filename")?.to_owned(),
        size: [number(size, "width")?, number(size, "height")?],
        objects: objects.map(object).collect::<Result<_, String>>()?,
    })
}

fn object(node: Node) -> Result<Object, String> {
    let corners = child(node, "bndbox")?;
    let [x0, y0, x1, y1] = ["xmin", "ymin", "xmax", "ymax"].map(|name| number::<f32>(corners, name));
    let bounds = BoundingBox::new(x0?, y0?, x1?, y1?);
    let BoundingBox { x0, y0, x1, y1 } = bounds;
    if !(x0 <= x1 && y0 <= y1 && [x0, y0, x1, y1].iter().all(|v| v.is_finite())) {
        return Err(format!("a box from ({x0}, {y0}) to ({x1}, {y1})"));
    }
    let difficult = node.children().any(|n| n.has_tag_name("difficult") && n.text() == Some("1"));
    Ok(Object { class: text(node, "name")?.to_owned(), bounds, difficult })
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Result<Node<'a, 'input>, String> {
    let found = node.children().find(|child| child.has_tag_name(name));
    found.ok_or_else(|| format!("<{}> has no <{name}>", node.tag_name().name()))
}

fn text<'a>(node: Node<'a, '_>, name: &str) -> Result<&'a str, String> {
    Ok(child(node, name)?.text().unwrap_or("").trim())
}

fn number<T: FromStr>(node: Node, name: &str) -> Result<T, String> {
    let text = text(node, name)?;
    text.parse()
        .map_err(|_| format!("<{name}> is {:?}, which is no such number", text.get(..20).unwrap_or(text)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "<annotation><filename>a</filename><size><width>9</width><height>5</height></size>\
        <object><name>t</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>4</xmax>\
        <ymax>5</ymax></bndbox></object></annotation>";

    #[test]
    fn faults_say_what_is_wrong() {
        let annotation = parse(GOOD.as_bytes(), "g").unwrap();
        assert!(annotation.objects[0].difficult);
        for (from, to, message) in [
            ("<xmin>1</xmin>", "", "g: not a VOC annotation: <bndbox> has no <xmin>"),
            ("<xmin>1<", "<xmin>one<", "<xmin> is \"one\", which is no such number"),
            ("<xmin>1<", "<xmin>NaN<", "a box from (NaN, 2) to (4, 5)"),
            ("<xmin>1<", "<xmin>5<", "a box from (5, 2) to (4, 5)"),
            ("<width>9<", "<width>-9<", "<width> is \"-9\""),
            ("annotation>", "note>", "begins with <note>"),
            ("</object>", "", "expected"),
        ] {
            let error = parse(GOOD.replace(from, to).as_bytes(), "g").unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(parse(b"\xff\xfe", "g").is_err() && parse(b"", "g").is_err());
        let entities = format!("<!DOCTYPE a [<!ENTITY x \"y\">]>{GOOD}");
        assert!(parse(entities.as_bytes(), "g").is_err());
        let deep = "<annotation>".repeat(20_000);
        assert!(parse(deep.as_bytes(), "deep").is_err());
    }

    proptest! {
        #[test]
        fn mutated_annotations_never_panic(at in 0..GOOD.len(), with in any::<u8>(), cut in 0..GOOD.len()) {
            let mut bytes = GOOD.as_bytes().to_vec();
            bytes[at] = with;
            let _ = parse(&bytes, "m");
            prop_assert!(parse(&bytes[..cut], "m").is_err());
        }
    }
}
