//! Tar archives of images, read in place from the memory-mapped file and never unpacked.
use super::folder::{dropped_note, no_images};
use crate::data::dataset::{Dataset, ImageHead, SampleImage};
use crate::data::decode::{EXTENSIONS, MAX_FILE_BYTES};
use crate::data::labels::ClassOrder;
use crate::data::listing;
use crate::data::notes::{ExtensionCounts, hidden_note, merged_note};
use crate::data::paths::{PathList, has_extension, parent_name};
use crate::data::split_names::{Spelling, SplitName};
use crate::error::ErrorKind;
use crate::message::{count, is_or_are};
use crate::{Error, Result};
use fornax_engine::MappedFile;
use std::borrow::Cow;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tar::{Archive, EntryType};

/// Size of a block of an archive.
const BLOCK: u64 = 512;

/// Images in tar archives, in natural order of their names.
pub struct TarIndex {
    archives: Vec<MappedArchive>,
    members: PathList,
    spans: Vec<Span>,
    /// Links with the name of an image, which are ignored.
    links: PathList,
    /// Files that are no images by their names.
    others: PathList,
    /// Files that are hidden, or in hidden folders.
    hidden: PathList,
}

struct MappedArchive {
    path: PathBuf,
    map: MappedFile,
}

/// Position of a member's bytes.
#[derive(Clone, Copy)]
struct Span {
    archive: u32,
    length: u32,
    start: u64,
}

impl TarIndex {
    /// Indexes the images of archives. Members that are links or devices are ignored; their names are never used as paths of files.
    /// Errors if an archive is truncated or damaged.
    pub fn read(paths: &[PathBuf]) -> Result<TarIndex> {
        let mut index = TarIndex {
            archives: vec![],
            members: PathList::default(),
            spans: vec![],
            links: PathList::default(),
            others: PathList::default(),
            hidden: PathList::default(),
        };
        for path in paths {
            let what = "the archive cannot be read";
            let map =
                MappedFile::open(path).map_err(|e| Error::unreadable(ErrorKind::Data, what, path, &e))?;
            if let Some([format, program]) = compression(&map) {
                return Err(Error::data(what)
                    .at_path(path)
                    .because(format!("it is compressed by {format}, so it cannot be read in place"))
                    .remedy(format!("decompress it with {program}")));
            }
            index.add_members(path, &map).map_err(|why| {
                Error::data(what).at_path(path).because(why).remedy("copy or download the archive again")
            })?;
            index.archives.push(MappedArchive { path: path.clone(), map });
        }
        let order = index.members.natural_order();
        index.members = index.members.select(&order);
        index.spans = order.iter().map(|i| index.spans[*i]).collect();
        Ok(index)
    }

    fn add_members(&mut self, path: &Path, bytes: &[u8]) -> std::result::Result<(), String> {
        if bytes.is_empty() {
            return Err("it is empty".into());
        }
        let mut archive = Archive::new(Cursor::new(bytes));
        let mut end = 0;
        for entry in archive.entries_with_seek().map_err(|e| damage(&e, end, bytes.len()))? {
            let mut entry = entry.map_err(|e| damage(&e, end, bytes.len()))?;
            let (start, length) = (entry.raw_file_position(), entry.size());
            let name = entry.path_bytes().into_owned();
            let shown = String::from_utf8_lossy(&name).into_owned();
            let kind = entry.header().entry_type();
            let sparse = kind == EntryType::GNUSparse || is_pax_sparse(&mut entry);
            // The size of a sparse member is that of the expanded file.
            let stored = if sparse {
                entry.header().entry_size().map_err(|e| damage(&e, end, bytes.len()))?
            } else {
                length
            };
            end = stored
                .checked_next_multiple_of(BLOCK)
                .and_then(|padded| start.checked_add(padded))
                .filter(|_| start.checked_add(stored).is_some_and(|end| end <= bytes.len() as u64))
                .ok_or_else(|| {
                    format!(
                        "it is truncated: {shown} has {stored} bytes from byte {start} on, the archive {}",
                        bytes.len()
                    )
                })?;
            let is_file = kind.is_file() || kind == EntryType::Continuous || sparse;
            let is_hidden = |part: &&str| part.starts_with('.') && *part != "..";
            if plain_parts(&shown).iter().any(is_hidden) {
                if is_file {
                    self.hidden.push(&plain_parts(&shown).join("/"));
                }
                continue;
            }
            if !has_extension(&shown, &EXTENSIONS) {
                if is_file {
                    self.others.push(&plain_parts(&shown).join("/"));
                }
                continue;
            }
            if kind.is_hard_link() || kind.is_symlink() {
                self.links.push(&plain_parts(&shown).join("/"));
            }
            if !is_file {
                continue;
            }
            if sparse {
                return Err(format!("{shown} is stored as a sparse file; make the archive without --sparse"));
            }
            let Ok(name) = String::from_utf8(name) else {
                return Err(format!(
                    "the name {shown:?} is not UTF-8; rename the file and make the archive again"
                ));
            };
            let parts = plain_parts(&name);
            if parts.contains(&"..") {
                return Err(format!("the name {name:?} leads out of the archive"));
            }
            if length > MAX_FILE_BYTES {
                return Err(format!("{name} has {length} bytes; at most {MAX_FILE_BYTES} are read"));
            }
            // Without a folder, as in one archive per class, the archive's name is the class.
            match parts.len() {
                1 => self.members.push(&format!("{}/{}", stem(path), parts[0])),
                _ => self.members.push(&parts.join("/")),
            }
            self.spans.push(Span { archive: self.archives.len() as u32, length: length as u32, start });
        }
        let last = bytes.get(end as usize..).and_then(|rest| rest.get(..BLOCK as usize));
        match last {
            Some(block) if block.iter().all(|byte| *byte == 0) => Ok(()),
            _ => Err(format!("it is truncated: the end-of-archive mark is missing at byte {end}")),
        }
    }

    fn bytes(&self, member: usize) -> &[u8] {
        let span = self.spans[member];
        &self.archives[span.archive as usize].map[span.start as usize..][..span.length as usize]
    }
}

/// Format and program of a compressed file, by its first bytes.
fn compression(bytes: &[u8]) -> Option<[&'static str; 2]> {
    match bytes {
        [0x1f, 0x8b, ..] => Some(["gzip", "gunzip"]),
        [b'B', b'Z', b'h', ..] => Some(["bzip2", "bunzip2"]),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(["xz", "unxz"]),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(["zstd", "unzstd"]),
        _ => None,
    }
}

/// Parts of a member's name.
fn plain_parts(name: &str) -> Vec<&str> {
    name.split('/').filter(|part| !part.is_empty() && *part != ".").collect()
}

fn damage(error: &std::io::Error, at: u64, length: usize) -> String {
    // Whole archives consist of blocks.
    let cut = !(length as u64).is_multiple_of(BLOCK);
    match error.kind() {
        kind if cut || kind == std::io::ErrorKind::UnexpectedEof => {
            format!("it is truncated: a header at byte {at} is incomplete")
        }
        _ => format!("it is damaged at byte {at}: {error}"),
    }
}

/// True if a member is sparse by PAX extensions, which store a map before the data.
fn is_pax_sparse<R: std::io::Read>(entry: &mut tar::Entry<'_, R>) -> bool {
    let Ok(Some(extensions)) = entry.pax_extensions() else { return false };
    extensions.flatten().any(|extension| extension.key_bytes().starts_with(b"GNU.sparse"))
}

/// Name of an archive without `.tar`.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Dataset of images in tar archives.
pub struct TarDataset {
    index: Arc<TarIndex>,
    /// Members of the index.
    members: Vec<u32>,
    targets: Vec<u32>,
    classes: Arc<[String]>,
}

/// Splits of a tar archive or of a folder of them.
pub struct TarSplits {
    root: PathBuf,
    /// The index read last, and its archives.
    index: Option<(Vec<PathBuf>, Arc<TarIndex>)>,
}

impl TarSplits {
    /// Splits of an archive, or of a folder of archives.
    pub fn new(root: &Path) -> TarSplits {
        TarSplits { root: root.into(), index: None }
    }

    /// Opens a split: archives in a folder of its name, archives whose names begin with its name, or members in a folder of its name;
    /// `None` if there is none. Without a split, opens all members. Also returns notes about images that are ignored.
    pub fn open(
        &mut self,
        split: Option<&SplitName>,
        order: &ClassOrder,
    ) -> Result<Option<(TarDataset, Vec<String>)>> {
        let all = archives(&self.root)?;
        let root = self.root.clone();
        let relative = |path: &PathBuf| {
            let path = path.strip_prefix(&root).unwrap_or(path);
            path.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/")
        };
        let of_split = |name: &str, spelling: Spelling| -> Option<Vec<PathBuf>> {
            let belongs = |path: &&PathBuf| {
                let path = relative(path);
                let rest = spelling.strip_prefix(&path, name);
                rest.is_some_and(|rest| rest.starts_with(['/', '-', '_', '.']))
            };
            let found: Vec<PathBuf> = all.iter().filter(belongs).cloned().collect();
            (!found.is_empty()).then_some(found)
        };
        let of_archives = split.filter(|_| self.root.is_dir()).and_then(|split| split.find(of_split));
        let (chosen, inside) = match of_archives {
            Some(found) => (found, None),
            None => (all, split),
        };
        let index = self.index(chosen)?;
        if index.members.is_empty() {
            let mut ignored = ExtensionCounts::default();
            index.others.iter().for_each(|path| ignored.add(path));
            let seen = ignored.note().map_or(String::new(), |note| format!("; {note}"));
            return Err(no_images(
                &self.root,
                format!("no member ends in .{}{seen}", EXTENSIONS.join(", .")),
            ));
        }
        let Some(prefix) = (match inside {
            None => Some(String::new()),
            Some(split) => prefix(&index.members, split),
        }) else {
            return Ok(None);
        };
        let members: Vec<u32> = (0..index.members.len() as u32)
            .filter(|i| index.members.get(*i as usize).starts_with(&prefix))
            .collect();
        let names = members.iter().map(|member| parent_name(index.members.get(*member as usize)));
        let labels = order.label(names, &self.root)?;
        let (kept, targets) = labels.kept_by_class();
        let notes =
            notes_of(&index, &prefix, &members).into_iter().chain(dropped_note(members.len() - kept.len()));
        let notes = notes.collect();
        let members = kept.into_iter().map(|i| members[i]).collect();
        Ok(Some((TarDataset { index, members, targets, classes: labels.classes }, notes)))
    }

    /// True if there are archives or members of a split.
    pub fn has(&mut self, split: &SplitName) -> Result<bool> {
        self.open(Some(split), &ClassOrder::Found).map(|found| found.is_some())
    }

    /// The index of archives, read once.
    fn index(&mut self, archives: Vec<PathBuf>) -> Result<Arc<TarIndex>> {
        if let Some((of, index)) = &self.index
            && *of == archives
        {
            return Ok(index.clone());
        }
        let index = Arc::new(TarIndex::read(&archives)?);
        self.index = Some((archives, index.clone()));
        Ok(index)
    }
}

/// Notes about the files of a split.
fn notes_of(index: &TarIndex, prefix: &str, members: &[u32]) -> Vec<String> {
    let within = |paths: &PathList| {
        let chosen: Vec<usize> = (0..paths.len()).filter(|i| paths.get(*i).starts_with(prefix)).collect();
        paths.select(&chosen)
    };
    let mut ignored = ExtensionCounts::default();
    within(&index.others).iter().for_each(|path| ignored.add(path));
    let members: Vec<usize> = members.iter().map(|member| *member as usize).collect();
    let links = within(&index.links).len() as u64;
    let links =
        (links > 0).then(|| format!("{} in archives {} ignored", count(links, "link"), is_or_are(links)));
    let notes = [
        ignored.note(),
        hidden_note(&within(&index.hidden)),
        merged_note(&index.members.select(&members)),
        links,
    ];
    notes.into_iter().flatten().collect()
}

/// The archive at `root`, or the archives in that folder in natural order.
pub fn archives(root: &Path) -> Result<Vec<PathBuf>> {
    if root.is_file() {
        return Ok(vec![root.into()]);
    }
    let found = listing::list(root, &["tar"])?;
    match found.files.is_empty() {
        true => Err(no_images(root, "no file in it ends in .tar")),
        false => Ok(found.files.iter().map(|path| root.join(path)).collect()),
    }
}

/// Beginning of the names of members in a split's folder, at the top or below the one folder that all members share.
fn prefix(members: &PathList, split: &SplitName) -> Option<String> {
    let first = members.iter().next()?.split_once('/').map_or("", |(folder, _)| folder);
    let shared = format!("{first}/");
    let tops = match !first.is_empty() && members.iter().all(|member| member.starts_with(&shared)) {
        true => vec![String::new(), shared],
        false => vec![String::new()],
    };
    tops.into_iter().find_map(|top| {
        split.find(|name, spelling| {
            members.iter().find_map(|member| {
                let inner = spelling.strip_prefix(member.strip_prefix(&top)?, name)?;
                inner.starts_with('/').then(|| member[..=top.len() + name.len()].to_string())
            })
        })
    })
}

impl Dataset for TarDataset {
    fn len(&self) -> usize {
        self.members.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn target(&self, index: usize) -> u32 {
        self.targets[index]
    }

    fn image(&self, index: usize) -> Result<SampleImage<'_>> {
        Ok(SampleImage::Encoded(Cow::Borrowed(self.index.bytes(self.members[index] as usize))))
    }

    fn image_heads(&self, index: usize, limit: usize) -> Result<Vec<ImageHead<'_>>> {
        let bytes = self.index.bytes(self.members[index] as usize);
        let head = Cow::Borrowed(&bytes[..limit.min(bytes.len())]);
        Ok(vec![ImageHead { bytes: head, file_size: bytes.len() as u64 }])
    }

    fn location(&self, index: usize) -> String {
        let member = self.members[index] as usize;
        let archive = &self.index.archives[self.index.spans[member].archive as usize];
        format!("{}: {}", archive.path.display(), self.index.members.get(member))
    }

    fn crc32c(&self) -> u32 {
        let mut sum = self.index.members.crc32c();
        for (member, target) in self.members.iter().zip(&self.targets) {
            for word in [*member, self.index.spans[*member as usize].length, *target] {
                sum = crc32c::crc32c_append(sum, &word.to_le_bytes());
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::{Builder, Header};

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(vec![]);
        for (name, bytes) in members {
            let mut header = Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).expect("memory");
        }
        builder.into_inner().expect("memory")
    }

    fn index(bytes: &[u8]) -> Result<TarIndex> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.tar");
        std::fs::write(&path, bytes).expect("writes");
        TarIndex::read(&[path])
    }

    #[test]
    fn members_are_sorted_and_read_in_place() {
        let long = format!("{}/x.png", "c".repeat(150));
        let index = index(&archive(&[
            ("b/10.png", b"ten"),
            ("./b/9.png", b"nine"),
            ("note.txt", b"no"),
            (&long, b"long"),
            ("e.jpg", b""),
        ]))
        .expect("reads");
        assert_eq!(index.members.iter().collect::<Vec<_>>(), ["a/e.jpg", "b/9.png", "b/10.png", &long]);
        assert_eq!((1..4).map(|i| index.bytes(i)).collect::<Vec<_>>(), [&b"nine"[..], b"ten", b"long"]);
    }

    #[test]
    fn truncated_archives_are_rejected_at_every_length() {
        let whole = archive(&[("a/1.png", &[7; 700]), ("b/2.png", &[8; 100])]);
        let end = whole.len() - 1024;
        for length in (0..end + 512).step_by(37) {
            let error = index(&whole[..length]).map(drop).expect_err("truncated").to_string();
            assert!(error.contains("truncated") || error.contains("empty"), "{length}: {error}");
        }
        assert_eq!(index(&whole[..end + 512]).expect("one zero block is enough").members.len(), 2);
    }

    #[test]
    fn damaged_archives_give_an_error_or_members_within_the_file() {
        let whole = archive(&[("a/1.png", &[7; 700]), (&format!("{}/2.png", "b".repeat(120)), &[8; 100])]);
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1 << (at % 8);
            if let Ok(index) = index(&bad) {
                (0..index.members.len()).for_each(|i| assert!(index.bytes(i).len() <= bad.len()));
            }
        }
    }

    /// Member with a name that `Builder` would not write.
    fn hostile(name: &[u8], kind: EntryType, size: u64) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_size(size);
        header.as_gnu_mut().expect("a GNU header").realsize = *b"00000000000\0";
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(512 + 2048, 0);
        bytes
    }

    #[test]
    fn hostile_members_are_rejected_or_ignored() {
        for (name, kind, size, expected) in [
            (&b"../../x.png"[..], EntryType::Regular, 4, "leads out of the archive"),
            (b"a/x.png", EntryType::Regular, u64::MAX >> 4, "truncated"),
            (b"a/x.png", EntryType::Regular, 1 << 40, "truncated"),
            (b"a/\xff.png", EntryType::Regular, 4, "not UTF-8"),
            (b"a/x.png", EntryType::GNUSparse, 0, "sparse"),
        ] {
            let error = index(&hostile(name, kind, size)).map(drop).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        let absolute = index(&hostile(b"/etc/x.png", EntryType::Regular, 4)).expect("reads");
        assert_eq!(absolute.members.iter().collect::<Vec<_>>(), ["etc/x.png"]);
        for kind in
            [EntryType::Symlink, EntryType::Link, EntryType::Fifo, EntryType::Block, EntryType::Directory]
        {
            assert_eq!(index(&hostile(b"a/x.png", kind, 0)).expect("reads").members.len(), 0);
        }
    }

    #[test]
    fn compressed_archives_name_the_program_that_decompresses_them() {
        for (magic, program) in [
            (&b"\x1f\x8b\x08\0"[..], "gunzip"),
            (b"BZh91AY", "bunzip2"),
            (b"\xfd7zXZ\0\0", "unxz"),
            (b"\x28\xb5\x2f\xfd\0", "unzstd"),
        ] {
            let error = index(magic).map(drop).expect_err(program).to_string();
            assert!(error.contains(&format!("decompress it with {program}")), "{error}");
            assert!(!error.contains("truncated") && !error.contains("again"), "{error}");
        }
    }

    #[test]
    fn ignored_hidden_and_merged_members_are_noted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("set.tar");
        let names = [
            "train/cars/red/1.png",
            "train/shirts/red/1.png",
            "train/cars/red/._1.png",
            "train/.git/2.png",
            "train/cars/red/1.avif",
            "train/notes.txt",
            "val/cars/red/2.png",
        ];
        std::fs::write(&path, archive(&names.map(|name| (name, &b"1"[..])))).expect("writes");
        let open = |split: &str| {
            let opened = TarSplits::new(&path).open(Some(&SplitName::new(split)), &ClassOrder::Found);
            let (dataset, notes) = opened.expect("reads").expect("found");
            (dataset.len(), dataset.classes().to_vec(), notes)
        };
        let (images, classes, notes) = open("train");
        assert_eq!((images, classes), (2, vec!["red".to_string()]));
        assert_eq!(
            notes,
            [
                "2 files ignored: 1 .avif, 1 .txt",
                "2 hidden files and folders skipped: train/cars/red/._1.png, train/.git/2.png",
                "class red is merged from train/cars/red and train/shirts/red",
            ]
        );
        assert_eq!(open("val").2, [""; 0]);
        assert!(TarSplits::new(&path).has(&SplitName::new("val")).expect("reads"));
        assert!(!TarSplits::new(&path).has(&SplitName::new("test")).expect("reads"));
    }

    #[test]
    fn links_are_counted_in_a_note_of_their_split() {
        let mut bytes = hostile(b"val/a/2.png", EntryType::Link, 0)[..512].to_vec();
        bytes.extend(&hostile(b"val/a/3.png", EntryType::Symlink, 0)[..512]);
        bytes.extend(archive(&[("train/a/1.png", b"1"), ("val/a/1.png", b"1")]));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("set.tar");
        std::fs::write(&path, bytes).expect("writes");
        let notes = |split: &str| {
            let opened = TarSplits::new(&path).open(Some(&SplitName::new(split)), &ClassOrder::Found);
            opened.expect("reads").expect("found").1
        };
        assert_eq!(notes("train"), [""; 0]);
        assert_eq!(notes("val"), ["2 links in archives are ignored"]);
    }

    #[test]
    fn splits_are_found_among_members_and_archives() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = |root: &Path, split: &str| {
            let found =
                TarSplits::new(root).open(Some(&SplitName::new(split)), &ClassOrder::Found).expect("reads");
            found.map(|(dataset, _)| (0..dataset.len()).map(|i| dataset.location(i)).collect::<Vec<_>>())
        };
        let one = folder.path().join("all.tar");
        std::fs::write(&one, archive(&[("set/train/a/1.png", b"1"), ("set/val/a/2.png", b"2")]))
            .expect("writes");
        let names = open(&one, "validation").expect("found");
        assert!(names.len() == 1 && names[0].ends_with("all.tar: set/val/a/2.png"), "{names:?}");
        assert_eq!(open(&one, "test"), None);
        let many = folder.path().join("many");
        std::fs::create_dir(&many).expect("creates");
        for (name, class) in [("train-0.tar", "a"), ("train-1.tar", "b"), ("val.tar", "a")] {
            std::fs::write(many.join(name), archive(&[(&format!("{class}/1.png"), b"1")])).expect("writes");
        }
        assert_eq!(open(&many, "train").expect("found").len(), 2);
        assert_eq!(open(&many, "validation").expect("found").len(), 1);
    }
}
