//! The part of Python's pickle format that files of weights use, read without executing anything: a call is looked at,
//! never made.
//!
//! Every value is an entry of one table, made by one operation of at least one byte, so a file cannot ask for more memory
//! than some multiple of its length. Names of functions decide what a call means; unknown ones give a value that stands
//! for nothing.

use std::collections::HashMap;

/// A number of a value in the table.
pub type Id = usize;

/// A value of a pickle.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing, a float, or the result of a call whose meaning is not known.
    Opaque,
    Bool(bool),
    Int(i64),
    Text(String),
    /// A tuple or a list.
    Many(Vec<Id>),
    /// Pairs in order.
    Map(Vec<(Id, Id)>),
    /// A function or class, `module name`.
    Global(String),
    /// What a storage is called by: a tuple.
    Persistent(Id),
    /// A tensor: a view of a storage, `(storage, offset, size, stride)`.
    Tensor([Id; 4]),
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle {
    values: Vec<Value>,
    pub root: Id,
    /// Bytes that it took.
    pub length: usize,
}

impl Pickle {
    pub fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    /// All values.
    pub fn ids(&self) -> std::ops::Range<Id> {
        0..self.values.len()
    }

    pub fn many(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Many(all) => Some(all),
            _ => None,
        }
    }

    pub fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn int(&self, id: Id) -> Option<i64> {
        match *self.get(id) {
            Value::Int(value) => Some(value),
            _ => None,
        }
    }

    /// Whole numbers from 0 on, as extents and strides are.
    pub fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        self.many(id)?.iter().map(|&i| usize::try_from(self.int(i)?).ok()).collect()
    }
}

/// Where reading stopped, and why.
pub type Fault = (usize, String);

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

/// Reads the pickle at the beginning of some bytes.
pub fn read(bytes: &[u8]) -> Result<Pickle, Fault> {
    let mut reader =
        Reader { bytes, at: 0, values: vec![], stack: vec![], marks: vec![], memo: HashMap::new() };
    loop {
        let start = reader.at;
        match reader.step() {
            Ok(None) => {}
            Ok(Some(root)) => {
                return Ok(Pickle { values: reader.values, root, length: reader.at });
            }
            Err(why) => return Err((start, why)),
        }
    }
}

const SHORT: &str = "the stack has too few values";

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let taken = &self.bytes[self.at..end.ok_or("the file ends inside a value")?];
        self.at += count;
        Ok(taken)
    }

    /// A whole number of up to eight bytes, the lowest first.
    fn number(&mut self, bytes: usize) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&b| b == b'\n').ok_or("a line does not end")?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|e| e.to_string())
    }

    fn push(&mut self, value: Value) {
        self.values.push(value);
        self.stack.push(self.values.len() - 1);
    }

    fn pop(&mut self) -> Result<Id, String> {
        // What lies under a mark belongs to somebody else.
        match self.marks.last() {
            Some(&mark) if mark == self.stack.len() => Err(SHORT.to_owned()),
            _ => self.stack.pop().ok_or_else(|| SHORT.to_owned()),
        }
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| SHORT.to_owned())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn text(&mut self, length: u64) -> Result<(), String> {
        let length = usize::try_from(length).map_err(|_| "a text is too long")?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|e| e.to_string())?;
        self.push(Value::Text(text.to_owned()));
        Ok(())
    }

    fn bytes(&mut self, length: u64) -> Result<(), String> {
        self.take(usize::try_from(length).map_err(|_| "bytes are too long")?)?;
        self.push(Value::Opaque);
        Ok(())
    }

    fn remember(&mut self, key: u64) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        let id = *self.memo.get(&key).ok_or("a value is used before it is made")?;
        self.stack.push(id);
        Ok(())
    }

    fn tuple(&mut self, count: usize) -> Result<(), String> {
        let mut all = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        all.reverse();
        self.push(Value::Many(all));
        Ok(())
    }

    /// Puts values into the list or map below them.
    fn extend(&mut self, items: Vec<Id>, pairs: bool) -> Result<(), String> {
        let id = self.top()?;
        match &mut self.values[id] {
            Value::Many(all) if !pairs => all.extend(items),
            Value::Map(all) if pairs && items.len().is_multiple_of(2) => {
                all.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            Value::Opaque => {}
            _ => return Err("values are put into something that holds none".to_owned()),
        }
        Ok(())
    }

    /// Operations that put values into the list or map below them; `d` makes the map first.
    fn fill(&mut self, code: u8) -> Result<(), String> {
        let items = match code {
            b'a' => vec![self.pop()?],
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            _ => self.since_mark()?,
        };
        if code == b'd' {
            self.push(Value::Map(Vec::new()));
        }
        self.extend(items, matches!(code, b's' | b'u' | b'd'))
    }

    /// What a call of a known function means.
    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let name = match &self.values[function] {
            Value::Global(name) => name.as_str(),
            _ => "",
        };
        let arguments = match &self.values[arguments] {
            Value::Many(all) => all.as_slice(),
            _ => &[],
        };
        let value = match (name, arguments) {
            ("collections OrderedDict", []) => Value::Map(Vec::new()),
            (
                "torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor",
                &[storage, offset, size, stride, ..],
            ) => Value::Tensor([storage, offset, size, stride]),
            ("torch._utils _rebuild_parameter", &[tensor, ..]) => match self.values[tensor] {
                Value::Tensor(parts) => Value::Tensor(parts),
                _ => Value::Opaque,
            },
            _ => Value::Opaque,
        };
        self.push(value);
        Ok(())
    }

    /// One operation; a value where the pickle ends. Codes are those of Python's `pickletools`, of protocols 2 to 5.
    fn step(&mut self) -> Result<Option<Id>, String> {
        match self.take(1)?[0] {
            b'.' => return self.pop().map(Some),
            0x80 => {
                let version = self.number(1)?;
                if !(2..=5).contains(&version) {
                    return Err(format!("protocol {version} is not read, only 2 to 5"));
                }
            }
            0x95 => drop(self.number(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'N' => self.push(Value::Opaque),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let value = self.number(4)? as u32 as i32;
                self.push(Value::Int(i64::from(value)));
            }
            b'K' => {
                let value = self.number(1)? as i64;
                self.push(Value::Int(value));
            }
            b'M' => {
                let value = self.number(2)? as i64;
                self.push(Value::Int(value));
            }
            0x8a => self.long()?,
            b'G' => self.bytes(8)?,
            b'X' | b'T' => self.sized_text(4)?,
            0x8c | b'U' => self.sized_text(1)?,
            0x8d => self.sized_text(8)?,
            b'B' => self.sized_bytes(4)?,
            b'C' => self.sized_bytes(1)?,
            0x8e => self.sized_bytes(8)?,
            b')' | b']' => self.push(Value::Many(Vec::new())),
            b'}' => self.push(Value::Map(Vec::new())),
            code @ 0x85..=0x87 => self.tuple(usize::from(code - 0x84))?,
            b't' | b'l' => {
                let all = self.since_mark()?;
                self.push(Value::Many(all));
            }
            code @ (b'a' | b's' | b'e' | b'u' | b'd') => self.fill(code)?,
            b'c' => {
                let name = format!("{} {}", self.line()?, self.line()?);
                self.push(Value::Global(name));
            }
            0x93 => self.global()?,
            b'R' => self.call()?,
            0x81 => {
                self.pop()?;
                self.pop()?;
                self.push(Value::Opaque);
            }
            // A state that is set on an object: attributes, which no tensor is found by.
            b'b' => drop(self.pop()?),
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            code => return self.memory(code).map(|()| None),
        }
        Ok(None)
    }

    /// Operations that keep a value under a number, or fetch it.
    fn memory(&mut self, code: u8) -> Result<(), String> {
        let width = if matches!(code, b'q' | b'h') { 1 } else { 4 };
        match code {
            b'q' | b'r' => {
                let key = self.number(width)?;
                self.remember(key)
            }
            b'h' | b'j' => {
                let key = self.number(width)?;
                self.recall(key)
            }
            0x94 => self.remember(self.memo.len() as u64),
            code => Err(format!("operation {code:#04x} is not known")),
        }
    }

    fn sized_text(&mut self, width: usize) -> Result<(), String> {
        let length = self.number(width)?;
        self.text(length)
    }

    fn sized_bytes(&mut self, width: usize) -> Result<(), String> {
        let length = self.number(width)?;
        self.bytes(length)
    }

    /// A whole number of any length in two's complement; what does not fit into 64 bits stands for nothing.
    fn long(&mut self) -> Result<(), String> {
        let length = self.number(1)? as usize;
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|&b| b & 0x80 != 0);
        let start = if negative { u64::MAX } else { 0 };
        let value = bytes.iter().rev().fold(start, |n, &b| n << 8 | u64::from(b)) as i64;
        self.push(if length <= 8 { Value::Int(value) } else { Value::Opaque });
        Ok(())
    }

    fn global(&mut self) -> Result<(), String> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (&self.values[module], &self.values[name]) {
            (Value::Text(module), Value::Text(name)) => {
                let name = format!("{module} {name}");
                self.push(Value::Global(name));
                Ok(())
            }
            _ => Err("a function has no name".to_owned()),
        }
    }
}
