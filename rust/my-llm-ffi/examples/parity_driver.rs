//! Runs one op on a file of tensors and writes them as they are afterwards. Counterparts:
//! tests/parity (makes the files and compares), the drivers of C and C++.
//!
//! ```text
//! cargo run --example parity_driver -- CASE OUT
//! ```

use std::io::{Error as IoError, ErrorKind};

use my_llm_ffi::op_call::Value;
use my_llm_ffi::{ops, DataType, Error, TensorViewMut};

const MAGIC: &[u8] = b"MLFCASE1";

/// A tensor of a case. Its memory is in words, so that it is aligned for every dtype.
struct CaseTensor {
    dtype: DataType,
    shape: Vec<usize>,
    words: Vec<u128>,
    n_bytes: usize,
}

impl CaseTensor {
    fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes of the words, each of which is initialized.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.n_bytes) }
    }

    fn view(&mut self) -> Result<TensorViewMut<'_>, Error> {
        // SAFETY: as above; every byte is part of a word.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.n_bytes) };
        TensorViewMut::from_bytes(bytes, self.dtype, &self.shape)
    }
}

struct Case {
    op: String,
    tensors: Vec<Option<CaseTensor>>,
    options: Vec<Value>,
}

/// Reads numbers off the front of a file.
struct Reader<'a>(&'a [u8]);

fn short() -> IoError {
    IoError::new(ErrorKind::UnexpectedEof, "the case is cut off")
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], IoError> {
        if count > self.0.len() {
            return Err(short());
        }
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], IoError> {
        self.take(N)?.try_into().map_err(|_| short())
    }

    fn u8(&mut self) -> Result<u8, IoError> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, IoError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String, IoError> {
        let count = self.u32()? as usize;
        Ok(String::from_utf8_lossy(self.take(count)?).into_owned())
    }

    fn tensor(&mut self) -> Result<Option<CaseTensor>, IoError> {
        if self.u8()? == 0 {
            return Ok(None);
        }
        let dtype = DataType::new(self.u8()?, self.u8()?);
        let ndim = self.u32()?;
        let sizes: Result<Vec<usize>, IoError> =
            (0..ndim).map(|_| Ok(i64::from_le_bytes(self.array()?) as usize)).collect();
        let n_bytes = u64::from_le_bytes(self.array()?) as usize;
        let data = self.take(n_bytes)?;
        let words = data.chunks(16).map(|chunk| {
            let mut word = [0; 16];
            word[..chunk.len()].copy_from_slice(chunk);
            u128::from_ne_bytes(word)
        });
        Ok(Some(CaseTensor { dtype, shape: sizes?, words: words.collect(), n_bytes }))
    }

    fn option(&mut self) -> Result<Value, IoError> {
        Ok(match self.u8()? {
            0 => Value::None,
            1 => Value::Int(i64::from_le_bytes(self.array()?)),
            2 => Value::Float(f64::from_le_bytes(self.array()?)),
            3 => Value::Bool(self.u8()? != 0),
            4 => Value::Text(self.text()?),
            kind => {
                return Err(IoError::new(ErrorKind::InvalidData, format!("option kind {kind}")))
            }
        })
    }
}

fn read(bytes: &[u8]) -> Result<Case, IoError> {
    let mut reader = Reader(bytes);
    if reader.take(MAGIC.len())? != MAGIC {
        return Err(IoError::new(ErrorKind::InvalidData, "this is no case"));
    }
    let op = reader.text()?;
    let tensors: Result<_, _> = (0..reader.u32()?).map(|_| reader.tensor()).collect();
    let options: Result<_, _> = (0..reader.u32()?).map(|_| reader.option()).collect();
    Ok(Case { op, tensors: tensors?, options: options? })
}

fn write(case: &Case) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    put_text(&mut out, &case.op);
    out.extend((case.tensors.len() as u32).to_le_bytes());
    for tensor in &case.tensors {
        let Some(t) = tensor else {
            out.push(0);
            continue;
        };
        out.extend([1, t.dtype.code, t.dtype.bits]);
        out.extend((t.shape.len() as u32).to_le_bytes());
        t.shape.iter().for_each(|size| out.extend((*size as i64).to_le_bytes()));
        out.extend((t.n_bytes as u64).to_le_bytes());
        out.extend(t.bytes());
    }
    out.extend((case.options.len() as u32).to_le_bytes());
    for option in &case.options {
        put_option(&mut out, option);
    }
    out
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_option(out: &mut Vec<u8>, option: &Value) {
    match option {
        Value::None => out.push(0),
        Value::Int(number) => {
            out.push(1);
            out.extend(number.to_le_bytes());
        }
        Value::Float(number) => {
            out.push(2);
            out.extend(number.to_le_bytes());
        }
        Value::Bool(flag) => out.extend([3, u8::from(*flag)]),
        Value::Text(text) => {
            out.push(4);
            put_text(out, text);
        }
    }
}

/// The op, through its generated function.
fn call(case: &mut Case) -> Result<(), Error> {
    let views: Result<Vec<_>, Error> = case
        .tensors
        .iter_mut()
        .map(|tensor| tensor.as_mut().map(CaseTensor::view).transpose())
        .collect();
    ops::call(&case.op, &mut views?, &case.options)
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(from), Some(to)) = (arguments.next(), arguments.next()) else {
        return Err("usage: parity_driver CASE OUT".into());
    };
    let mut case = read(&std::fs::read(from)?)?;
    call(&mut case)?;
    std::fs::write(to, write(&case))?;
    Ok(())
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
