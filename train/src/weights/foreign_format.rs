//! Formats of weights files besides safetensors, recognised by their contents: PyTorch files are read, others are rejected with the command
//! that converts them.
use super::pytorch::LEGACY_MAGIC;
use std::path::Path;

/// Format of a weights file besides safetensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignFormat {
    /// `torch.save`: a zip archive with a pickle, or the format before PyTorch 1.6. The only one that is read.
    PyTorch,
    /// `torch.jit.save`: a zip archive with code.
    TorchScript,
    /// Another Python pickle.
    Pickle,
    /// ONNX model.
    Onnx,
    /// HDF5, such as Keras weights.
    Hdf5,
    /// Another zip archive.
    Zip,
}

impl ForeignFormat {
    /// The format of a file, if it is one of these.
    pub fn of(bytes: &[u8]) -> Option<ForeignFormat> {
        match bytes {
            [b'P', b'K', 3, 4, ..] => {
                // A zip archive lists its members at the end; the pickle is the first.
                let ends = [&bytes[..bytes.len().min(512)], &bytes[bytes.len().saturating_sub(1 << 20)..]];
                let has = |part: &[u8], name: &str| part.windows(name.len()).any(|w| w == name.as_bytes());
                let lists = |name: &str| ends.iter().any(|part| has(part, name));
                Some(match (lists("constants.pkl"), lists("data.pkl")) {
                    (true, _) => ForeignFormat::TorchScript,
                    (false, true) => ForeignFormat::PyTorch,
                    (false, false) => ForeignFormat::Zip,
                })
            }
            _ if bytes.starts_with(LEGACY_MAGIC) => Some(ForeignFormat::PyTorch),
            [0x80, 2..=5, ..] => Some(ForeignFormat::Pickle),
            [0x89, b'H', b'D', b'F', ..] => Some(ForeignFormat::Hdf5),
            // The first fields of a ModelProto: ir_version, then the producer, domain, graph or opset.
            [0x08, 1..=31, 0x12 | 0x1a | 0x22 | 0x32 | 0x3a | 0x42, ..] => Some(ForeignFormat::Onnx),
            _ => None,
        }
    }

    /// Why the file is not read.
    pub fn why(self) -> &'static str {
        match self {
            ForeignFormat::PyTorch => "it is a PyTorch file, which has no training state of fornax",
            ForeignFormat::TorchScript => "it is a TorchScript archive, which holds code",
            ForeignFormat::Pickle => {
                "it is a Python pickle, but not of torch.save, and reading it could run any code"
            }
            ForeignFormat::Onnx => "it is an ONNX model",
            ForeignFormat::Hdf5 => "it is an HDF5 file",
            ForeignFormat::Zip => "it is a zip archive",
        }
    }

    /// How to convert the file to safetensors.
    pub fn remedy(self, path: &Path) -> String {
        let (from, to) = names(path);
        let load = match self {
            ForeignFormat::PyTorch => return format!("convert it: fornax ckpt convert '{from}' -o '{to}'"),
            ForeignFormat::Pickle => {
                return "load it with the program that wrote it, and save its state dict with torch.save"
                    .into();
            }
            ForeignFormat::TorchScript => "d = torch.jit.load('{from}', map_location='cpu').state_dict()",
            ForeignFormat::Onnx => {
                return format!(
                    "convert the PyTorch model that it was exported from; an ONNX file alone gives its initializers: python -c \"import onnx; \
                     from onnx.numpy_helper import to_array; from safetensors.numpy import save_file; \
                     save_file({{t.name: to_array(t).copy() for t in onnx.load('{from}').graph.initializer}}, '{to}')\""
                );
            }
            ForeignFormat::Hdf5 | ForeignFormat::Zip => {
                return "pass weights in safetensors format, with timm's tensor names".into();
            }
        };
        let load = load.replace("{from}", &from);
        format!(
            "convert it: python -c \"import torch; from safetensors.torch import save_file; {load}; \
             save_file({{k: v.contiguous() for k, v in d.items()}}, '{to}')\""
        )
    }
}

/// File names of the conversion's input and output; placeholders where a shell or Python would misread the path.
fn names(path: &Path) -> (String, String) {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=,:@ ".contains(c);
    match path.to_str().filter(|text| text.chars().all(plain)) {
        Some(text) => (text.into(), path.with_extension("safetensors").display().to_string()),
        None => ("FILE".into(), "FILE.safetensors".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_recognised_by_their_first_bytes() {
        let zip = |member: &str| [b"PK\x03\x04".as_slice(), &[0; 100], member.as_bytes()].concat();
        for (bytes, expected) in [
            (zip("archive/data.pkl"), Some(ForeignFormat::PyTorch)),
            (zip("archive/data.pkl archive/constants.pkl"), Some(ForeignFormat::TorchScript)),
            (zip("a.npy"), Some(ForeignFormat::Zip)),
            (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(), Some(ForeignFormat::PyTorch)),
            (b"\x80\x02}q\0.".to_vec(), Some(ForeignFormat::Pickle)),
            (b"\x80\x04\x95".to_vec(), Some(ForeignFormat::Pickle)),
            (b"\x08\x0a\x12\x07pytorch".to_vec(), Some(ForeignFormat::Onnx)),
            (b"\x89HDF\r\n\x1a\n".to_vec(), Some(ForeignFormat::Hdf5)),
            (b"".to_vec(), None),
            (b"PK".to_vec(), None),
            (b"\x40\0\0\0\0\0\0\0{\"a\":".to_vec(), None),
        ] {
            assert_eq!(ForeignFormat::of(&bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn remedy_names_the_file_unless_a_shell_would_misread_it() {
        let remedy = |path: &str| ForeignFormat::TorchScript.remedy(Path::new(path));
        assert!(remedy("w/a b.pth").contains("torch.jit.load('w/a b.pth', "), "{}", remedy("w/a b.pth"));
        assert!(remedy("w/a b.pth").contains("'w/a b.safetensors')"), "{}", remedy("w/a b.pth"));
        for hostile in ["a'b.pth", "$(x).pth", "a\"b.pth", "a`b`.pth"] {
            assert!(remedy(hostile).contains("torch.jit.load('FILE', "), "{}", remedy(hostile));
        }
    }
}
