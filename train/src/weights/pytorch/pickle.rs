//! Restricted pickle machine: it builds plain values, storages and tensors. Classes and functions are names: none is imported or called.
use super::value::{Global, Object, Pickle, Storage, TensorView, Value, dtype};
use std::collections::HashMap;

/// Maximum number of operations: a large checkpoint has less than a million.
const MAX_OPERATIONS: usize = 1 << 24;
/// Maximum number of objects.
const MAX_OBJECTS: usize = 1 << 20;
/// Maximum number of entries of all dicts that are created from lists of pairs.
const MAX_COPIED: usize = 1 << 20;
/// Maximum number of axes of a tensor; the tensors of a model have less.
const MAX_AXES: usize = 8;

/// Classes that are read as a dict.
const DICTS: [(&[&str], &str); 3] = [
    (&["collections"], "OrderedDict"),
    (&["collections"], "defaultdict"),
    (&["builtins", "__builtin__"], "dict"),
];
/// Modules of PyTorch's functions that build tensors.
const UTILS: &[&str] = &["torch._utils"];

/// Reads one pickle; returns it with its length in bytes.
pub fn read(bytes: &[u8]) -> Result<(Pickle<'_>, usize), String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: vec![],
        marks: vec![],
        memo: HashMap::new(),
        objects: vec![],
        copied: 0,
    };
    for _ in 0..MAX_OPERATIONS {
        let opcode = machine.byte()?;
        if opcode == b'.' {
            let root = machine.pop()?;
            return Ok((Pickle { root, objects: machine.objects }, machine.at));
        }
        machine.step(opcode)?;
    }
    Err(format!("its pickle has more than {MAX_OPERATIONS} operations"))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Lengths of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    objects: Vec<Object<'a>>,
    /// Entries that were copied from lists to dicts.
    copied: usize,
}

type Step = Result<(), String>;

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Step {
        match opcode {
            // PROTO and FRAME.
            0x80 => self.byte().map(drop),
            0x95 => self.take(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.pop_to_mark().map(drop),
            b'2' => {
                let top = *self.stack.last().ok_or_else(underflow)?;
                self.push(top)
            }
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool(opcode == 0x88)),
            b'I' | b'L' | b'F' => self.text_number(opcode),
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Int(value.into()))
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()))
            }
            0x8a | 0x8b => {
                let length = if opcode == 0x8a { u64::from(self.byte()?) } else { self.length(4)? };
                let digits = self.take(length)?;
                self.push(long(digits))
            }
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(value))
            }
            b'X' => self.text(4),
            0x8c => self.text(1),
            0x8d => self.text(8),
            b'T' | b'B' => self.raw(4),
            b'U' | b'C' => self.raw(1),
            0x8e | 0x96 => self.raw(8),
            b')' => self.create(Object::Tuple(vec![])),
            b't' => {
                let items = self.pop_to_mark()?;
                self.create(Object::Tuple(items))
            }
            0x85..=0x87 => {
                let start = self.stack.len().checked_sub(usize::from(opcode - 0x84)).ok_or_else(underflow)?;
                self.check_mark(start)?;
                let items = self.stack.split_off(start);
                self.create(Object::Tuple(items))
            }
            b']' => self.create(Object::List(vec![])),
            b'l' => {
                let items = self.pop_to_mark()?;
                self.create(Object::List(items))
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.append(items)
            }
            b'}' => self.create(Object::Dict(vec![])),
            b'd' => {
                let items = self.pop_to_mark()?;
                self.create(Object::Dict(pairs(&items)?))
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)
            }
            0x8f => self.create(opaque("builtins", "set")),
            0x91 => {
                self.pop_to_mark()?;
                self.create(opaque("builtins", "frozenset"))
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(Global { module, name }))
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.push(Value::Global(Global { module, name })),
                _ => Err("a class in its pickle has no name".into()),
            },
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.call(callee, arguments)
            }
            0x92 => {
                let (_, arguments, callee) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(callee, arguments)
            }
            b'b' => self.build(),
            b'p' | b'g' => {
                let index = self.line()?.parse().map_err(|_| "an index in its pickle is not a number")?;
                if opcode == b'p' { self.memoize(index) } else { self.recall(index) }
            }
            b'q' => {
                let index = self.byte()?;
                self.memoize(index.into())
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.memoize(index)
            }
            0x94 => self.memoize(self.memo.len() as u32),
            b'h' => {
                let index = self.byte()?;
                self.recall(index.into())
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)
            }
            b'Q' => {
                let id = self.pop()?;
                self.persistent(id)
            }
            other => Err(format!("its pickle has operation {other:#04x}, which is not supported")),
        }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        let taken = taken.ok_or("its pickle is truncated")?;
        self.at += taken.len();
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N as u64)?.try_into().expect("N bytes"))
    }

    /// A little-endian length of 1, 4 or 8 bytes.
    fn length(&mut self, bytes: usize) -> Result<u64, String> {
        let mut all = [0; 8];
        all[..bytes].copy_from_slice(self.take(bytes as u64)?);
        Ok(u64::from_le_bytes(all))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(4096).position(|byte| *byte == b'\n').ok_or("its pickle is truncated")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "a name in its pickle is not UTF-8".into())
    }

    fn text(&mut self, width: usize) -> Step {
        let length = self.length(width)?;
        let bytes = self.take(length)?;
        self.push(std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Text))
    }

    /// Bytes, or a string of Python 2, which is text if it is ASCII.
    fn raw(&mut self, width: usize) -> Step {
        let length = self.length(width)?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii());
        self.push(text.map_or(Value::Bytes(bytes), Value::Text))
    }

    fn text_number(&mut self, opcode: u8) -> Step {
        let text = self.line()?;
        let number = match (opcode, text) {
            (b'I', "00") => Some(Value::Bool(false)),
            (b'I', "01") => Some(Value::Bool(true)),
            (b'F', text) => text.parse().ok().map(Value::Float),
            (_, text) => text.trim_end_matches('L').parse().ok().map(Value::Int),
        };
        self.push(number.ok_or("a number in its pickle cannot be read")?)
    }

    fn push(&mut self, value: Value<'a>) -> Step {
        self.stack.push(value);
        Ok(())
    }

    fn create(&mut self, object: Object<'a>) -> Step {
        if self.objects.len() == MAX_OBJECTS {
            return Err(format!("its pickle has more than {MAX_OBJECTS} objects"));
        }
        self.objects.push(object);
        self.push(Value::Object(self.objects.len() - 1))
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        self.check_mark(self.stack.len().checked_sub(1).ok_or_else(underflow)?)?;
        self.stack.pop().ok_or_else(underflow)
    }

    /// Errors if values from `start` on belong to an enclosing mark.
    fn check_mark(&self, start: usize) -> Step {
        match self.marks.last().is_some_and(|mark| start < *mark) {
            true => Err(underflow()),
            false => Ok(()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or_else(underflow)?;
        Ok(self.stack.split_off(mark))
    }

    fn memoize(&mut self, index: u32) -> Step {
        let top = *self.stack.last().ok_or_else(underflow)?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Step {
        let value = *self.memo.get(&index).ok_or("its pickle refers to a value that it does not have")?;
        self.push(value)
    }

    /// The object on top of the stack, which items are added to.
    fn top_object(&mut self) -> Result<&mut Object<'a>, String> {
        match self.stack.last() {
            Some(Value::Object(index)) => Ok(&mut self.objects[*index]),
            _ => Err("its pickle adds items to a value that is not a container".into()),
        }
    }

    /// Appends to a list. Items of objects that are not known are dropped.
    fn append(&mut self, items: Vec<Value<'a>>) -> Step {
        if let Object::List(list) = self.top_object()? {
            list.extend(items);
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Value<'a>]) -> Step {
        let added = pairs(items)?;
        if let Object::Dict(entries) = self.top_object()? {
            entries.extend(added);
        }
        Ok(())
    }

    /// Sets the state of an object that is not known, such as the attributes of a `Namespace`; other objects need none.
    fn build(&mut self) -> Step {
        let new = self.pop()?;
        if let Some(Value::Object(index)) = self.stack.last()
            && let Object::Opaque { state, .. } = &mut self.objects[*index]
        {
            *state = new;
        }
        Ok(())
    }

    /// The result of a call by its name: known functions build tensors and dicts; any other call gives an object that is not known.
    fn call(&mut self, callee: Value<'a>, arguments: Value<'a>) -> Step {
        let Value::Global(function) = callee else {
            return self.create(opaque("builtins", "object"));
        };
        let arguments: Vec<Value<'a>> = match arguments {
            Value::Object(index) => match &self.objects[index] {
                Object::Tuple(items) if items.len() <= 16 => items.clone(),
                _ => vec![],
            },
            _ => vec![],
        };
        if DICTS.iter().any(|(modules, name)| function.is(modules, name)) {
            return self.create_dict(&arguments);
        }
        match (function.is(UTILS, function.name), function.name, &arguments[..]) {
            (true, "_rebuild_tensor" | "_rebuild_tensor_v2", [storage, offset, shape, strides, ..]) => {
                let view = self.view(*storage, [*offset, *shape, *strides], None)?;
                self.create(Object::Tensor(Box::new(view)))
            }
            (
                true,
                "_rebuild_tensor_v3",
                [storage, offset, shape, strides, _, _, Value::Global(kind), ..],
            ) => {
                let view = self.view(*storage, [*offset, *shape, *strides], Some(*kind))?;
                self.create(Object::Tensor(Box::new(view)))
            }
            (true, "_rebuild_parameter" | "_rebuild_parameter_with_state", [data, ..]) => self.push(*data),
            _ if function.is(&["torch"], "Size") => match arguments.first() {
                Some(shape) => self.push(*shape),
                None => self.create(Object::Tuple(vec![])),
            },
            _ => self.create(Object::Opaque { class: function, state: Value::None }),
        }
    }

    /// A dict of no arguments, or of a list of pairs.
    fn create_dict(&mut self, arguments: &[Value<'a>]) -> Step {
        let mut entries = vec![];
        for argument in arguments {
            let Some(Object::List(items)) = self.object(*argument) else { continue };
            let copied = self.copied + entries.len() + items.len();
            if copied > MAX_COPIED {
                return Err(format!("its pickle copies more than {MAX_COPIED} entries"));
            }
            for item in items {
                if let Some(Object::List(pair) | Object::Tuple(pair)) = self.object(*item)
                    && let [key, value] = pair[..]
                {
                    entries.push((key, value));
                }
            }
        }
        self.copied += entries.len();
        self.create(Object::Dict(entries))
    }

    fn object(&self, value: Value<'a>) -> Option<&Object<'a>> {
        match value {
            Value::Object(index) => self.objects.get(index),
            _ => None,
        }
    }

    fn view(
        &self,
        storage: Value<'a>,
        [offset, shape, strides]: [Value<'a>; 3],
        kind: Option<Global<'a>>,
    ) -> Result<TensorView<'a>, String> {
        let integers = |value: Value<'a>| match self.object(value)? {
            Object::Tuple(items) | Object::List(items) if items.len() <= MAX_AXES => items
                .iter()
                .map(|item| if let Value::Int(value) = item { Some(*value) } else { None })
                .collect::<Option<Vec<i64>>>(),
            _ => None,
        };
        match (self.object(storage), offset, integers(shape), integers(strides)) {
            (Some(Object::Storage(storage)), Value::Int(offset), Some(shape), Some(strides)) => {
                let name = kind.map_or(storage.class.name, |kind| kind.name);
                let (dtype, storage) = (dtype(name).ok_or(name), storage.key);
                Ok(TensorView { dtype, storage, offset, shape, strides })
            }
            _ => Err("a tensor in its pickle lacks storage, offset, shape or strides".into()),
        }
    }

    /// The storage of a persistent id `('storage', CLASS, KEY, LOCATION, ELEMENTS)`.
    fn persistent(&mut self, id: Value<'a>) -> Step {
        let items = match self.object(id) {
            Some(Object::Tuple(items)) => &items[..],
            _ => &[],
        };
        match items {
            [Value::Text("storage"), Value::Global(class), Value::Text(key), _, Value::Int(_), rest @ ..] => {
                if rest.first().is_some_and(|view| *view != Value::None) {
                    return Err("it has views of storages, which PyTorch wrote before version 0.4".into());
                }
                let storage = Storage { class: *class, key };
                self.create(Object::Storage(storage))
            }
            [Value::Text("module"), Value::Global(class), ..] => {
                let class = *class;
                self.push(Value::Global(class))
            }
            _ => Err("a storage in its pickle has no class, key or length".into()),
        }
    }
}

fn pairs<'a>(items: &[Value<'a>]) -> Result<Vec<(Value<'a>, Value<'a>)>, String> {
    match items.len().is_multiple_of(2) {
        true => Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()),
        false => Err("a key in its pickle has no value".into()),
    }
}

fn long(digits: &[u8]) -> Value<'_> {
    match digits.len() {
        0..=8 => {
            let sign = digits.last().is_some_and(|last| last & 0x80 != 0);
            let mut all = [if sign { 0xff } else { 0 }; 8];
            all[..digits.len()].copy_from_slice(digits);
            Value::Int(i64::from_le_bytes(all))
        }
        _ => Value::Long(digits),
    }
}

fn opaque(module: &'static str, name: &'static str) -> Object<'static> {
    Object::Opaque { class: Global { module, name }, state: Value::None }
}

fn underflow() -> String {
    "its pickle takes a value from an empty stack".into()
}
