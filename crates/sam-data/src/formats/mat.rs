//! Reads MATLAB's `.mat` files of version 5 (5 to 7.2), as far as truth of data sets is stored in them: numbers, cells and
//! structs.
//!
//! Source: "MAT-File Format" (MathWorks). An element has a tag of type and length, and may be zlib-compressed as a whole. Arrays
//! are column-major. Numbers are read from the decompressed bytes when they are asked for, so that a file takes no more memory
//! than it says.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::bufread::ZlibDecoder;
use sam_files::MAX_TEXT_BYTES;

use crate::error::DataError;
use crate::formats::signature;

/// What a compressed element may take: sixteen people's segments and boundaries of 8 megapixels.
const MAX_ELEMENT_BYTES: u64 = 512 << 20;
/// Cells in structs in cells; deeper files are made to harm.
const MAX_NESTING: usize = 8;
/// More is not a truth.
const MAX_PARTS: usize = 100_000;
const HEADER_BYTES: usize = 128;
/// `miINT8` to `miUINT64`, `miMATRIX` and `miCOMPRESSED`.
mod element {
    pub(super) const INT8: u32 = 1;
    pub(super) const INT32: u32 = 5;
    pub(super) const UINT32: u32 = 6;
    pub(super) const MATRIX: u32 = 14;
    pub(super) const COMPRESSED: u32 = 15;
}
/// `mxCELL_CLASS` and so on.
mod class {
    pub(super) const CELL: u8 = 1;
    pub(super) const STRUCT: u8 = 2;
    pub(super) const DOUBLE: u8 = 6;
    pub(super) const UINT64: u8 = 15;
}

/// An array.
#[derive(Debug)]
pub(crate) struct MatArray<'a> {
    /// Rows, columns and further sizes; the elements are column-major.
    pub(crate) sizes: Vec<usize>,
    pub(crate) content: MatContent<'a>,
}

/// What an array holds.
#[derive(Debug)]
pub(crate) enum MatContent<'a> {
    Cells(Vec<MatArray<'a>>),
    /// The fields of the first element of a struct.
    Struct(Vec<(String, MatArray<'a>)>),
    Numbers(MatNumbers<'a>),
    /// Text, sparse matrices, objects.
    Other,
}

/// The numbers of an array as they are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatNumbers<'a> {
    bytes: &'a [u8],
    stored: Stored,
    order: Order,
}

/// The type in which numbers are stored, whatever their class: a matrix of small doubles is stored as bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    F32,
    F64,
    I64,
    U64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Little,
    Big,
}

impl MatArray<'_> {
    /// The field of a struct.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        let MatContent::Struct(fields) = &self.content else { return None };
        fields.iter().find(|(field, _)| field == name).map(|(_, array)| array)
    }

    /// As an error message says it: "a cell of 1 x 5".
    pub(crate) fn describe(&self) -> String {
        let kind = match &self.content {
            MatContent::Cells(_) => "a cell",
            MatContent::Struct(_) => "a struct",
            MatContent::Numbers(_) => "numbers",
            MatContent::Other => "text or another type",
        };
        let sizes: Vec<String> = self.sizes.iter().map(usize::to_string).collect();
        format!("{kind} of {}", sizes.join(" x "))
    }
}

impl MatNumbers<'_> {
    /// The number at a column-major position.
    pub(crate) fn get(&self, at: usize) -> f64 {
        let size = self.stored.n_bytes();
        let bytes = &self.bytes[at * size..][..size];
        let word = self.order.word(bytes);
        match self.stored {
            Stored::I8 => f64::from(word as u8 as i8),
            Stored::I16 => f64::from(word as u16 as i16),
            Stored::I32 => f64::from(word as u32 as i32),
            Stored::I64 => word as i64 as f64,
            Stored::U8 | Stored::U16 | Stored::U32 | Stored::U64 => word as f64,
            Stored::F32 => f64::from(f32::from_bits(word as u32)),
            Stored::F64 => f64::from_bits(word),
        }
    }
}

impl Stored {
    fn of(kind: u32) -> Option<Self> {
        Some(match kind {
            element::INT8 => Self::I8,
            2 => Self::U8,
            3 => Self::I16,
            4 => Self::U16,
            element::INT32 => Self::I32,
            element::UINT32 => Self::U32,
            7 => Self::F32,
            9 => Self::F64,
            12 => Self::I64,
            13 => Self::U64,
            _ => return None,
        })
    }

    fn n_bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }
}

impl Order {
    /// Up to eight bytes as a number.
    fn word(self, bytes: &[u8]) -> u64 {
        let add = |word: u64, &byte: &u8| word << 8 | u64::from(byte);
        match self {
            Self::Little => bytes.iter().rev().fold(0, add),
            Self::Big => bytes.iter().fold(0, add),
        }
    }
}

/// The variables of a file, decompressed.
#[derive(Debug)]
pub(crate) struct MatFile {
    path: PathBuf,
    order: Order,
    /// The matrix elements of the file, without their tags.
    matrices: Vec<Vec<u8>>,
}

impl MatFile {
    /// Reads a file.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let bytes = sam_files::read_regular(path, MAX_TEXT_BYTES).map_err(|error| DataError::io(path, error))?;
        Self::parse(&bytes, path)
    }

    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self, DataError> {
        signature::check(bytes, path, "a .mat file")?;
        let order = header(bytes, path)?;
        let mut reader = Elements { path, order, rest: &bytes[HEADER_BYTES..] };
        let mut matrices = Vec::new();
        while !reader.rest.is_empty() {
            let Some((kind, data)) = reader.next_whole()? else { break };
            match kind {
                element::MATRIX => matrices.push(data.to_vec()),
                element::COMPRESSED => {
                    let mut inflated = Vec::new();
                    let read = ZlibDecoder::new(data).take(MAX_ELEMENT_BYTES + 1).read_to_end(&mut inflated);
                    read.map_err(|error| damaged(path, "a compressed element", &error.to_string()))?;
                    if inflated.len() as u64 > MAX_ELEMENT_BYTES {
                        let got = format!("more than {} MiB", MAX_ELEMENT_BYTES >> 20);
                        return Err(damaged(path, "a compressed element", &got));
                    }
                    let mut inside = Elements { path, order, rest: &inflated };
                    if let Some((element::MATRIX, data)) = inside.next_whole()? {
                        matrices.push(data.to_vec());
                    }
                }
                _ => {}
            }
        }
        Ok(Self { path: path.to_path_buf(), order, matrices })
    }

    /// The variable of this name.
    pub(crate) fn variable(&self, wanted: &str) -> Result<MatArray<'_>, DataError> {
        let mut names = Vec::new();
        for matrix in &self.matrices {
            let mut reader = Elements { path: &self.path, order: self.order, rest: matrix };
            let head = reader.head()?;
            if head.name == wanted {
                return reader.array(head, MAX_NESTING);
            }
            names.push(head.name);
        }
        Err(DataError::Content {
            path: self.path.clone(),
            what: "the variables".to_owned(),
            expected: format!("with one called {wanted}"),
            got: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
            fix: "use the file of the published truth".to_owned(),
        })
    }
}

/// Checks the header and finds the order of bytes.
fn header(bytes: &[u8], path: &Path) -> Result<Order, DataError> {
    const HDF5: &[u8] = b"\x89HDF\r\n\x1a\n";
    let wrong = |got: &str, fix: &str| DataError::Content {
        path: path.to_path_buf(),
        what: "a .mat file".to_owned(),
        expected: "of version 5 to 7.2".to_owned(),
        got: got.to_owned(),
        fix: fix.to_owned(),
    };
    if bytes.starts_with(HDF5) || bytes.starts_with(b"MATLAB 7.3") {
        return Err(wrong("one of version 7.3 (HDF5)", "save it with save(.., '-v7')"));
    }
    match bytes.get(HEADER_BYTES - 4..HEADER_BYTES) {
        Some([0x00, 0x01, b'I', b'M']) => Ok(Order::Little),
        Some([0x01, 0x00, b'M', b'I']) => Ok(Order::Big),
        Some(_) => Err(wrong("a file without its signature", "download it again, or save it with save(.., '-v7')")),
        None => Err(wrong(&format!("{} bytes", bytes.len()), "download it again")),
    }
}

fn damaged(path: &Path, what: &str, got: &str) -> DataError {
    DataError::Content {
        path: path.to_path_buf(),
        what: what.to_owned(),
        expected: "complete and as the format says".to_owned(),
        got: got.to_owned(),
        fix: "download it again".to_owned(),
    }
}

/// What comes before the content of an array.
struct Head {
    class: u8,
    is_complex: bool,
    sizes: Vec<usize>,
    name: String,
}

/// A sequence of elements.
struct Elements<'a, 'p> {
    path: &'p Path,
    order: Order,
    rest: &'a [u8],
}

impl<'a> Elements<'a, '_> {
    fn word(&self, at: usize) -> Option<u32> {
        Some(self.order.word(self.rest.get(at..at + 4)?) as u32)
    }

    /// The next element of a sequence that is padded to eight bytes.
    fn next(&mut self) -> Result<(u32, &'a [u8]), DataError> {
        let short = || damaged(self.path, "an element", "the end of the file");
        let first = self.word(0).ok_or_else(short)?;
        // Up to four bytes are in the tag itself.
        let (kind, start, len): (u32, usize, usize) = match (first & 0xFFFF, first >> 16) {
            (kind, 0) => (kind, 8, self.word(4).ok_or_else(short)? as usize),
            (kind, len @ 1..=4) => (kind, 4, len as usize),
            (_, len) => return Err(damaged(self.path, "a small element", &format!("{len} bytes"))),
        };
        let data = self.rest.get(start..start.saturating_add(len)).ok_or_else(short)?;
        let padded = if start == 4 { 8 } else { (start + len).next_multiple_of(8) };
        self.rest = self.rest.get(padded..).unwrap_or(&[]);
        Ok((kind, data))
    }

    /// The next element at the top of a file, where compressed ones are not padded; `None` for padding at the end.
    fn next_whole(&mut self) -> Result<Option<(u32, &'a [u8])>, DataError> {
        if self.rest.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if self.word(0) != Some(element::COMPRESSED) {
            return self.next().map(Some);
        }
        let short = || damaged(self.path, "a compressed element", "the end of the file");
        let len = self.word(4).ok_or_else(short)? as usize;
        let data = self.rest.get(8..8usize.saturating_add(len)).ok_or_else(short)?;
        self.rest = &self.rest[8 + len..];
        Ok(Some((element::COMPRESSED, data)))
    }

    fn head(&mut self) -> Result<Head, DataError> {
        let (kind, flags) = self.next()?;
        if kind != element::UINT32 || flags.len() < 4 {
            return Err(damaged(self.path, "the flags of an array", &format!("type {kind}")));
        }
        let flags = self.order.word(&flags[..4]) as u32;
        let (kind, sizes) = self.next()?;
        if kind != element::INT32 || sizes.len() % 4 != 0 {
            return Err(damaged(self.path, "the sizes of an array", &format!("type {kind}")));
        }
        let sizes = sizes.chunks_exact(4).map(|size| self.order.word(size) as u32 as usize).collect();
        let (_, name) = self.next()?;
        let name = String::from_utf8_lossy(name).into_owned();
        Ok(Head { class: flags as u8, is_complex: flags >> 11 & 1 == 1, sizes, name })
    }

    /// The array after its head; `depth` more levels may follow.
    fn array(&mut self, head: Head, depth: usize) -> Result<MatArray<'a>, DataError> {
        let Head { class, is_complex, sizes, .. } = head;
        let n_elements =
            sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size)).unwrap_or(usize::MAX);
        let content = match class {
            class::CELL | class::STRUCT if n_elements > MAX_PARTS => {
                return Err(damaged(self.path, "a cell or struct", &format!("{n_elements} elements")));
            }
            class::CELL => {
                let cells = (0..n_elements).map(|_| self.part(depth)).collect::<Result<_, _>>()?;
                MatContent::Cells(cells)
            }
            class::STRUCT => MatContent::Struct(self.fields(n_elements, depth)?),
            class::DOUBLE..=class::UINT64 if !is_complex => {
                let (kind, bytes) = self.next()?;
                let numbers = Stored::of(kind).map(|stored| MatNumbers { bytes, stored, order: self.order });
                let numbers = numbers.ok_or_else(|| damaged(self.path, "numbers", &format!("type {kind}")))?;
                let expected = n_elements.saturating_mul(numbers.stored.n_bytes());
                if bytes.len() != expected {
                    let got = format!("{} bytes for {n_elements} numbers", bytes.len());
                    return Err(damaged(self.path, "numbers", &got));
                }
                MatContent::Numbers(numbers)
            }
            _ => MatContent::Other,
        };
        Ok(MatArray { sizes, content })
    }

    /// An array inside another one.
    fn part(&mut self, depth: usize) -> Result<MatArray<'a>, DataError> {
        let (kind, data) = self.next()?;
        if kind != element::MATRIX {
            return Err(damaged(self.path, "a part of a cell or struct", &format!("type {kind}")));
        }
        if data.is_empty() {
            return Ok(MatArray { sizes: vec![0, 0], content: MatContent::Other });
        }
        let depth = depth.checked_sub(1).ok_or_else(|| {
            damaged(self.path, "cells and structs", &format!("more than {MAX_NESTING} inside each other"))
        })?;
        let mut inside = Elements { path: self.path, order: self.order, rest: data };
        let head = inside.head()?;
        inside.array(head, depth)
    }

    /// The fields of a struct's first element; those of further elements are read over.
    fn fields(&mut self, n_elements: usize, depth: usize) -> Result<Vec<(String, MatArray<'a>)>, DataError> {
        let (_, len) = self.next()?;
        let len = self.order.word(len) as usize;
        let (_, names) = self.next()?;
        if len == 0 || names.len() % len != 0 || names.len() / len > MAX_PARTS {
            return Err(damaged(self.path, "the field names of a struct", &format!("{} bytes", names.len())));
        }
        let text =
            |name: &[u8]| String::from_utf8_lossy(name.split(|&byte| byte == 0).next().unwrap_or(&[])).into_owned();
        let names: Vec<String> = names.chunks_exact(len).map(text).collect();
        let mut fields = Vec::new();
        for element in 0..n_elements {
            for name in &names {
                let array = self.part(depth)?;
                if element == 0 {
                    fields.push((name.clone(), array));
                }
            }
        }
        Ok(fields)
    }
}
