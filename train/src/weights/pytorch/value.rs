//! Values of a pickle. Objects are kept in one list and refer to each other by index, so cycles and depth cost nothing.
use fornax_nn::state_dict::StoredDType;

/// Value of a pickle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Integer of more than 64 bits, little-endian.
    Long(&'a [u8]),
    Text(&'a str),
    Bytes(&'a [u8]),
    Global(Global<'a>),
    /// Index of an object.
    Object(usize),
}

/// Name of a class or function, which is never imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Global<'a> {
    pub module: &'a str,
    pub name: &'a str,
}

/// Object of a pickle.
#[derive(Debug)]
pub enum Object<'a> {
    List(Vec<Value<'a>>),
    Tuple(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    Tensor(Box<TensorView<'a>>),
    /// Instance of a class that the reader does not know: its class and its state, if it has one.
    Opaque {
        class: Global<'a>,
        state: Value<'a>,
    },
}

/// Reference to the elements of tensors.
#[derive(Clone, Copy, Debug)]
pub struct Storage<'a> {
    /// Class, such as `FloatStorage`.
    pub class: Global<'a>,
    /// Name of its elements in the file.
    pub key: &'a str,
}

/// Tensor: a view of a storage, not validated yet.
#[derive(Clone, Debug)]
pub struct TensorView<'a> {
    /// Dtype, or the name of one that is not supported.
    pub dtype: Result<StoredDType, &'a str>,
    /// Name of the elements in the file.
    pub storage: &'a str,
    /// Index of the first element in the storage.
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
}

/// Root and objects of a pickle.
pub struct Pickle<'a> {
    pub root: Value<'a>,
    pub objects: Vec<Object<'a>>,
}

impl<'a> Pickle<'a> {
    /// The object of a value, if it is one.
    pub fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(index) => self.objects.get(index),
            _ => None,
        }
    }

    /// The entries of a dict.
    pub fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match self.object(value)? {
            Object::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// The entry of a dict with a key: the last, as in Python.
    pub fn entry(&self, dict: Value<'a>, key: &str) -> Option<Value<'a>> {
        let entries = self.dict(dict)?;
        entries.iter().rev().find(|(name, _)| *name == Value::Text(key)).map(|(_, value)| *value)
    }
}

impl Global<'_> {
    /// True for a name in one of several modules.
    pub fn is(self, modules: &[&str], name: &str) -> bool {
        self.name == name && modules.contains(&self.module)
    }
}

impl std::fmt::Display for Global<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.module, self.name)
    }
}

/// Dtype of a storage class or of `torch.dtype`'s names.
pub fn dtype(name: &str) -> Option<StoredDType> {
    Some(match name {
        "DoubleStorage" | "float64" | "double" => StoredDType::F64,
        "FloatStorage" | "float32" | "float" => StoredDType::F32,
        "HalfStorage" | "float16" | "half" => StoredDType::F16,
        "BFloat16Storage" | "bfloat16" => StoredDType::BF16,
        "LongStorage" | "int64" | "long" => StoredDType::I64,
        "IntStorage" | "int32" | "int" => StoredDType::I32,
        "ShortStorage" | "int16" | "short" => StoredDType::I16,
        "CharStorage" | "int8" => StoredDType::I8,
        "ByteStorage" | "uint8" => StoredDType::U8,
        "BoolStorage" | "bool" => StoredDType::Bool,
        "uint16" => StoredDType::U16,
        "uint32" => StoredDType::U32,
        "uint64" => StoredDType::U64,
        _ => return None,
    })
}
