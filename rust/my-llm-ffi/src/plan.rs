//! Plans: calls of ops with their buffers and constants, ready to run, made here or loaded.

use std::path::Path;

use crate::any::{Any, Arg};
use crate::context::count;
use crate::element::DataType;
use crate::error::{Error, Result};
use crate::object::{invoke, object_type};
use crate::owned_tensor::Tensor;
use crate::tensor::{Lowered, TensorView, TensorViewMut};
use crate::vocab::path_argument;

object_type! {
    /// A tensor of a plan.
    pub PlanValue = "my_llm_ffi.PlanValue"
}

// SAFETY: the library's object is immutable.
unsafe impl Send for PlanValue {}
// SAFETY: as above.
unsafe impl Sync for PlanValue {}

impl PlanValue {
    /// Its name; empty for one that is inside of the plan.
    ///
    /// # Errors
    /// What the library throws.
    pub fn name(&self) -> Result<String> {
        self.object.field("name")?.to()
    }

    /// Its dtype.
    ///
    /// # Errors
    /// What the library throws.
    pub fn dtype(&self) -> Result<DataType> {
        self.object.field("dtype")?.to()
    }

    /// Its sizes: numbers, or names and expressions of names.
    ///
    /// # Errors
    /// What the library throws.
    pub fn shape(&self) -> Result<Vec<String>> {
        self.object.field("shape")?.to()
    }

    /// Whether a run may write to it.
    ///
    /// # Errors
    /// What the library throws.
    pub fn is_written(&self) -> Result<bool> {
        self.object.field("written")?.to()
    }
}

/// A size of a plan's tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size<'a> {
    /// A number.
    Fixed(usize),
    /// A name, which the first input that has it binds in each run, or an expression of names.
    Named(&'a str),
}

impl From<usize> for Size<'_> {
    fn from(size: usize) -> Self {
        Self::Fixed(size)
    }
}

impl<'a> From<&'a str> for Size<'a> {
    fn from(name: &'a str) -> Self {
        Self::Named(name)
    }
}

fn sizes(shape: &[Size<'_>]) -> Result<Any> {
    let all: Result<Vec<Any>> = shape.iter().map(|size| size.to_any()).collect();
    Any::array(&all?)
}

impl Size<'_> {
    fn to_any(self) -> Result<Any> {
        match self {
            Self::Fixed(size) => Ok(count(size).into()),
            Self::Named(name) => Any::text(name),
        }
    }
}

/// An argument of a call in a plan.
#[derive(Debug, Clone, Copy)]
pub enum PlanArgument<'a> {
    /// A tensor of the plan.
    Tensor(&'a PlanValue),
    /// Not given.
    None,
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// A flag.
    Bool(bool),
    /// A text.
    Text(&'a str),
}

impl<'a> From<&'a PlanValue> for PlanArgument<'a> {
    fn from(value: &'a PlanValue) -> Self {
        Self::Tensor(value)
    }
}

impl From<f64> for PlanArgument<'_> {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl PlanArgument<'_> {
    fn to_any(self) -> Result<Any> {
        Ok(match self {
            Self::Tensor(value) => value.object.clone().into(),
            Self::None => Any::NONE,
            Self::Int(number) => number.into(),
            Self::Float(number) => number.into(),
            Self::Bool(flag) => flag.into(),
            Self::Text(text) => Any::text(text)?,
        })
    }
}

object_type! {
    /// Collects the calls of a plan.
    pub PlanBuilder = "my_llm_ffi.PlanBuilder"
}

// SAFETY: one thread at a time, any one.
unsafe impl Send for PlanBuilder {}

impl PlanBuilder {
    /// An empty one.
    ///
    /// # Errors
    /// `ImportError` where the library is not there.
    pub fn new() -> Result<Self> {
        invoke!(PlanBuilder, "create")?.to()
    }

    /// A tensor that each run is given.
    ///
    /// # Errors
    /// `ValueError` where the name is taken or a size is none.
    pub fn input(&mut self, name: &str, dtype: DataType, shape: &[Size<'_>]) -> Result<PlanValue> {
        let (name, shape) = (Any::text(name)?, sizes(shape)?);
        let (name, shape) = (Arg::from(&name), Arg::from(&shape));
        invoke!(PlanBuilder, "input", self.arg(), name, dtype.into(), shape)?.to()
    }

    /// A tensor that `Plan::bind` gives.
    ///
    /// # Errors
    /// As `input`.
    pub fn parameter(
        &mut self,
        name: &str,
        dtype: DataType,
        shape: &[Size<'_>],
    ) -> Result<PlanValue> {
        let (name, shape) = (Any::text(name)?, sizes(shape)?);
        let (name, shape) = (Arg::from(&name), Arg::from(&shape));
        invoke!(PlanBuilder, "parameter", self.arg(), name, dtype.into(), shape)?.to()
    }

    /// A tensor with its values, which are copied and stored in the plan's file.
    ///
    /// # Errors
    /// As `input`.
    pub fn constant(&mut self, name: &str, values: Tensor) -> Result<PlanValue> {
        let (name, values) = (Any::text(name)?, Any::from(values));
        invoke!(PlanBuilder, "constant", self.arg(), Arg::from(&name), Arg::from(&values))?.to()
    }

    /// A tensor inside of the plan, which shares memory with others whose lives do not overlap.
    ///
    /// # Errors
    /// As `input`.
    pub fn buffer(&mut self, dtype: DataType, shape: &[Size<'_>]) -> Result<PlanValue> {
        let shape = sizes(shape)?;
        invoke!(PlanBuilder, "buffer", self.arg(), dtype.into(), Arg::from(&shape))?.to()
    }

    /// Elements of another tensor, so many after its first.
    ///
    /// # Errors
    /// `ValueError` where they are not all in it.
    pub fn view(
        &mut self,
        value: &PlanValue,
        shape: &[Size<'_>],
        offset: Size<'_>,
    ) -> Result<PlanValue> {
        let (shape, offset) = (sizes(shape)?, offset.to_any()?);
        let (shape, offset) = (Arg::from(&shape), Arg::from(&offset));
        invoke!(PlanBuilder, "view", self.arg(), value.arg(), shape, offset)?.to()
    }

    /// Calls a registered function of this full name (`my_llm_ffi.rms_norm`): inputs, outputs,
    /// options.
    ///
    /// # Errors
    /// `ValueError` or `TypeError` where the function does not take them.
    pub fn call(&mut self, function: &str, arguments: &[PlanArgument<'_>]) -> Result<()> {
        let all: Result<Vec<Any>> = arguments.iter().map(|argument| argument.to_any()).collect();
        let (function, all) = (Any::text(function)?, Any::array(&all?)?);
        invoke!(PlanBuilder, "call", self.arg(), Arg::from(&function), Arg::from(&all))?.to()
    }

    /// Names a result: a buffer, or an input that was written.
    ///
    /// # Errors
    /// `ValueError` where the name is taken, or nothing wrote to it.
    pub fn output(&mut self, name: &str, value: &PlanValue) -> Result<()> {
        let name = Any::text(name)?;
        invoke!(PlanBuilder, "output", self.arg(), Arg::from(&name), value.arg())?.to()
    }

    /// The plan; the builder may go on.
    ///
    /// # Errors
    /// `ValueError` where a call reads what nothing wrote.
    pub fn build(&self) -> Result<Plan> {
        invoke!(PlanBuilder, "build", self.arg())?.to()
    }
}

object_type! {
    /// Calls of ops, ready to run: made by `PlanBuilder::build`, or loaded from a file. Used by one
    /// thread at a time.
    pub Plan = "my_llm_ffi.Plan"
}

// SAFETY: one thread at a time, any one.
unsafe impl Send for Plan {}

/// An input of a run: lent to be read, or to be written to as well.
#[derive(Debug)]
pub enum PlanInput<'a> {
    /// For an input that the plan only reads.
    Read(TensorView<'a>),
    /// For any input.
    Write(TensorViewMut<'a>),
}

impl<'a> From<TensorView<'a>> for PlanInput<'a> {
    fn from(view: TensorView<'a>) -> Self {
        Self::Read(view)
    }
}

impl<'a> From<TensorViewMut<'a>> for PlanInput<'a> {
    fn from(view: TensorViewMut<'a>) -> Self {
        Self::Write(view)
    }
}

impl PlanInput<'_> {
    fn lower(&mut self) -> Lowered<'_> {
        match self {
            Self::Read(view) => view.lower(),
            Self::Write(view) => view.lower(),
        }
    }
}

impl Plan {
    /// Loads a file that `save` wrote. Besides ops it may call the functions of `allow`, which are
    /// full names.
    ///
    /// # Errors
    /// `ValueError` where it is no plan, is damaged, or calls what is neither an op nor allowed;
    /// says where. `NotImplementedError` for a version that the library does not know; `OSError`
    /// where it cannot be read.
    pub fn load(path: impl AsRef<Path>, allow: &[&str]) -> Result<Self> {
        let names: Result<Vec<Any>> = allow.iter().map(|name| Any::text(name)).collect();
        let (path, names) = (path_argument(path.as_ref())?, Any::array(&names?)?);
        invoke!(Plan, "load", Arg::from(&path), Arg::from(&names))?.to()
    }

    /// Writes the plan with its constants; parameters stay outside of the file.
    ///
    /// # Errors
    /// `OSError` where the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path_argument(path.as_ref())?;
        invoke!(Plan, "save", self.arg(), Arg::from(&path))?.to()
    }

    /// What a run takes, in order.
    ///
    /// # Errors
    /// What the library throws.
    pub fn inputs(&self) -> Result<Vec<PlanValue>> {
        invoke!(Plan, "inputs", self.arg())?.to()
    }

    /// What a run gives, in order; inputs that are written may be among them.
    ///
    /// # Errors
    /// What the library throws.
    pub fn outputs(&self) -> Result<Vec<PlanValue>> {
        invoke!(Plan, "outputs", self.arg())?.to()
    }

    /// What `bind` takes.
    ///
    /// # Errors
    /// What the library throws.
    pub fn parameters(&self) -> Result<Vec<PlanValue>> {
        invoke!(Plan, "parameters", self.arg())?.to()
    }

    /// Number of calls.
    ///
    /// # Errors
    /// What the library throws.
    pub fn n_calls(&self) -> Result<usize> {
        invoke!(Plan, "n_calls", self.arg())?.to()
    }

    /// Gives a parameter its tensor, which is kept until another takes its place.
    ///
    /// # Errors
    /// `ValueError` where there is no such parameter. Here or in the next run: `ValueError` where the
    /// shape is wrong, `TypeError` where the dtype is. `BufferError` where the plan writes to it and
    /// somebody else refers to the tensor.
    pub fn bind(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        if !tensor.is_unique() {
            self.check_only_read(name)?;
        }
        let (name, tensor) = (Any::text(name)?, Any::from(tensor));
        invoke!(Plan, "bind", self.arg(), Arg::from(&name), Arg::from(&tensor))?.to()
    }

    /// Runs all calls: all inputs in their order, and a tensor for each output that is no input.
    ///
    /// # Errors
    /// `ValueError` where their number, a shape, device or stride is wrong, an input that is
    /// written was lent to be read, or a parameter has no tensor; `TypeError` where a dtype is
    /// wrong; what a call throws.
    pub fn run(
        &mut self,
        inputs: &mut [PlanInput<'_>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<()> {
        self.check_lent(inputs)?;
        let mut lowered: Vec<Lowered<'_>> = inputs.iter_mut().map(PlanInput::lower).collect();
        lowered.extend(outputs.iter_mut().map(TensorViewMut::lower));
        let mut arguments = vec![self.arg()];
        arguments.extend(lowered.iter().map(Lowered::arg));
        static RUN: crate::object::Method = crate::object::Method::new("run");
        // It writes to outputs, and to inputs that were checked just now.
        RUN.call(Self::key(), &arguments)?.to()
    }

    fn check_only_read(&self, parameter: &str) -> Result<()> {
        for value in self.parameters()? {
            if value.name()? == parameter && value.is_written()? {
                let text = format!("plan: {parameter} is written to, while others refer to it");
                return Err(Error::new("BufferError", text));
            }
        }
        Ok(())
    }

    fn check_lent(&self, inputs: &[PlanInput<'_>]) -> Result<()> {
        for (value, input) in self.inputs()?.iter().zip(inputs) {
            if matches!(input, PlanInput::Read(_)) && value.is_written()? {
                let name = value.name()?;
                let text = format!("plan: {name} is written to, and was lent to be read");
                return Err(Error::value(text));
            }
        }
        Ok(())
    }
}
