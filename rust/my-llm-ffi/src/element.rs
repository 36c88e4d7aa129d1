//! What a tensor is made of: element types, dtypes, devices.

use std::fmt;

/// A dtype as DLPack has it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DataType {
    /// Kind of number: 0 int, 1 uint, 2 float, 4 bfloat, 6 bool.
    pub code: u8,
    /// Bits of one element.
    pub bits: u8,
    /// Elements of one vector; 1.
    pub lanes: u16,
}

impl DataType {
    /// A dtype of one lane.
    pub const fn new(code: u8, bits: u8) -> Self {
        Self { code, bits, lanes: 1 }
    }

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        (self.bits as usize * self.lanes as usize + 7) / 8
    }
}

impl fmt::Display for DataType {
    /// As NumPy and torch name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            0 => write!(f, "int{}", self.bits)?,
            1 => write!(f, "uint{}", self.bits)?,
            2 => write!(f, "float{}", self.bits)?,
            4 => write!(f, "bfloat{}", self.bits)?,
            6 => write!(f, "bool")?,
            code => write!(f, "dtype(code={code}, bits={})", self.bits)?,
        }
        match self.lanes {
            1 => Ok(()),
            lanes => write!(f, "x{lanes}"),
        }
    }
}

/// A device as DLPack has it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// 1 CPU, 2 CUDA, 3 memory of the CPU that CUDA pinned.
    pub device_type: i32,
    /// Which of that kind.
    pub device_id: i32,
}

impl Device {
    /// The CPU.
    pub const CPU: Self = Self { device_type: 1, device_id: 0 };

    /// A GPU.
    pub const fn cuda(device_id: i32) -> Self {
        Self { device_type: 2, device_id }
    }

    /// Whether the CPU can read its memory.
    pub const fn is_cpu(self) -> bool {
        matches!(self.device_type, 1 | 3)
    }
}

/// A type that tensors hold.
///
/// # Safety
/// `DTYPE` describes it, every pattern of its bits is a value, and it has no padding.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    /// Its dtype.
    const DTYPE: DataType;
}

macro_rules! element {
    ($($type:ty => $code:literal, $bits:literal;)*) => {
        $(
            // SAFETY: plain numbers, or a plain number in a transparent structure.
            unsafe impl Element for $type {
                const DTYPE: DataType = DataType::new($code, $bits);
            }
        )*
    };
}

element! {
    i8 => 0, 8;
    i16 => 0, 16;
    i32 => 0, 32;
    i64 => 0, 64;
    u8 => 1, 8;
    u16 => 1, 16;
    u32 => 1, 32;
    u64 => 1, 64;
    f32 => 2, 32;
    f64 => 2, 64;
    F16 => 2, 16;
    BF16 => 4, 16;
}

/// Bits of an IEEE 754 half: 1 sign, 5 exponent, 10 mantissa.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct F16(pub u16);

/// Bits of a bfloat16: the upper half of a float32.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct BF16(pub u16);

impl F16 {
    /// Rounded to nearest, ties to even; what is too large becomes infinite.
    pub fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let sign = ((bits >> 16) & 0x8000) as u16;
        let magnitude = bits & 0x7FFF_FFFF;
        if magnitude > 0x7F80_0000 {
            return Self(sign | 0x7E00 | ((magnitude >> 13) & 0x3FF) as u16); // NaN, made quiet
        }
        if magnitude >= 0x4780_0000 {
            return Self(sign | 0x7C00); // 65536 and more
        }
        if magnitude < 0x3880_0000 {
            return Self(sign | subnormal_half(magnitude));
        }
        let rebiased = magnitude - 0x3800_0000;
        Self(sign | round_off(rebiased, 13) as u16)
    }

    /// Exact.
    pub fn to_f32(self) -> f32 {
        let sign = u32::from(self.0 & 0x8000) << 16;
        let exponent = u32::from(self.0 >> 10) & 0x1F;
        let mantissa = u32::from(self.0) & 0x3FF;
        let magnitude = match exponent {
            0 => (mantissa as f32 * 2f32.powi(-24)).to_bits(),
            31 => 0x7F80_0000 | (mantissa << 13),
            _ => ((exponent + 112) << 23) | (mantissa << 13),
        };
        f32::from_bits(sign | magnitude)
    }
}

/// A magnitude below 2^-14 in steps of 2^-24.
fn subnormal_half(magnitude: u32) -> u16 {
    let exponent = magnitude >> 23;
    if exponent < 102 {
        return 0; // below half of the smallest step
    }
    let mantissa = (magnitude & 0x7F_FFFF) | 0x80_0000;
    round_off(mantissa, 126 - exponent) as u16
}

/// Without its lowest bits, rounded to nearest, ties to even.
fn round_off(value: u32, bits: u32) -> u32 {
    let kept = value >> bits;
    let rest = value & ((1 << bits) - 1);
    let half = 1 << (bits - 1);
    kept + u32::from(rest > half || (rest == half && kept & 1 == 1))
}

impl BF16 {
    /// Rounded to nearest, ties to even.
    pub fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        if value.is_nan() {
            return Self((bits >> 16) as u16 | 0x40);
        }
        Self(round_off(bits, 16) as u16)
    }

    /// Exact.
    pub fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

macro_rules! conversions {
    ($($type:ty),*) => {
        $(
            impl From<f32> for $type {
                fn from(value: f32) -> Self {
                    Self::from_f32(value)
                }
            }

            impl From<$type> for f32 {
                fn from(value: $type) -> Self {
                    value.to_f32()
                }
            }

            impl fmt::Debug for $type {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    fmt::Debug::fmt(&self.to_f32(), f)
                }
            }
        )*
    };
}

conversions!(F16, BF16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_comes_back() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (F16(bits), BF16(bits));
            let (a, b) = (F16::from_f32(half.to_f32()), BF16::from_f32(brain.to_f32()));
            assert!(a == half || (half.to_f32().is_nan() && a.to_f32().is_nan()), "{bits:#x}");
            assert!(b == brain || (brain.to_f32().is_nan() && b.to_f32().is_nan()), "{bits:#x}");
        }
    }

    #[test]
    fn halves_round_to_the_nearest() {
        // Between each two neighbours: just below, on and just above the middle.
        for bits in 0..0x7C00u16 {
            let (low, high) = (f64::from(F16(bits).to_f32()), f64::from(F16(bits + 1).to_f32()));
            let high = if high.is_finite() { high } else { 65536.0 };
            let middle = ((low + high) / 2.0) as f32;
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            assert_eq!(F16::from_f32(middle), F16(even), "{bits:#x}");
            assert_eq!(F16::from_f32(f32::from_bits(middle.to_bits() - 1)), F16(bits));
            assert_eq!(F16::from_f32(-f32::from_bits(middle.to_bits() + 1)), F16(0x8001 + bits));
        }
    }

    #[test]
    fn bfloats_round_to_the_nearest() {
        assert_eq!(BF16::from_f32(f32::from_bits(0x3F80_8000)), BF16(0x3F80));
        assert_eq!(BF16::from_f32(f32::from_bits(0x3F81_8000)), BF16(0x3F82));
        assert_eq!(BF16::from_f32(f32::from_bits(0x3F80_8001)), BF16(0x3F81));
        assert_eq!(BF16::from_f32(f32::MAX).to_f32(), f32::INFINITY);
    }

    #[test]
    fn dtypes_have_names() {
        let names = [f32::DTYPE, F16::DTYPE, BF16::DTYPE, i64::DTYPE, u8::DTYPE];
        let text: Vec<String> = names.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["float32", "float16", "bfloat16", "int64", "uint8"]);
        assert_eq!(DataType { code: 2, bits: 32, lanes: 4 }.to_string(), "float32x4");
        assert_eq!(DataType { code: 5, bits: 64, lanes: 1 }.to_string(), "dtype(code=5, bits=64)");
    }
}
