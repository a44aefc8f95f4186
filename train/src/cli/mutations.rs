//! Mutated command lines and configuration files: no panic, usage errors only, and the nearest name.
use super::*;
use crate::config::Config;
use crate::nearest::nearest;
use crate::settings::Settings;

/// Mutations per test; 10,000 with `FORNAX_TEST_SWEEP=full` or `=reliability`.
fn cases() -> u64 {
    let sweep = std::env::var("FORNAX_TEST_SWEEP").unwrap_or_default();
    if ["full", "reliability"].contains(&sweep.as_str()) { 10_000 } else { 500 }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

const HOSTILE: [&str; 18] = [
    "",
    "-",
    "--",
    "-1",
    "0",
    "nan",
    "inf",
    "1e999",
    "99999999999999999999",
    "true",
    "null",
    "=",
    "--=",
    "'",
    "\u{fffd}",
    "é",
    "\0",
    "[1, 2]",
];

/// Removes, inserts, replaces or swaps characters.
fn edited(text: &str, random: &mut Random) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    let at = random.below(characters.len().max(1));
    let other =
        random.one_of(&['a', '-', '_', '=', '0', '9', '.', ':', ' ', '\n', '{', '[', '&', '*', '"', 'é']);
    match random.below(4) {
        0 if !characters.is_empty() => drop(characters.remove(at)),
        1 if !characters.is_empty() => characters[at] = other,
        2 if at > 0 && at < characters.len() => characters.swap(at - 1, at),
        _ => characters.insert(at, other),
    }
    characters.into_iter().collect()
}

/// Parses as `fornax` does, up to the resolved configuration.
fn parse(arguments: Vec<OsString>) -> Result<()> {
    let command = command(true);
    let arguments = flags::normalise(arguments, &command);
    if let Some(error) = usage::unknown_options(&arguments, &command) {
        return Err(error);
    }
    let matches = match command.clone().try_get_matches_from(&arguments) {
        Err(error) if !error.use_stderr() => return Ok(()),
        matches => matches.map_err(|error| usage::error(&error, &arguments, &command))?,
    };
    match with_configuration_files(&command, &arguments, matches)?.0.command {
        Command::Train(args) => {
            Config::resolve(&Settings { seeds: None, ..args.recipe.settings()? }).map(drop)
        }
        _ => Ok(()),
    }
}

#[test]
fn mutated_command_lines_are_usage_errors_or_valid() {
    let line = "fornax train --dataset digits --model resnet8 --epochs 3 --batch-size 64 --opt adamw --opt-betas 0.9 0.95 --lr 1e-3 \
                --sched cosine --warmup-epochs 1 --aa rand-m9-mstd0.5 --mixup 0.2 --reprob 0.1 --model-ema --amp --smoothing 0.1 \
                --train-crop-mode rrc --scale 0.5 1 --device cpu --threads 2 --log-interval 5 --dist-bn reduce";
    let line: Vec<&str> = line.split_whitespace().collect();
    parse(line.iter().map(OsString::from).collect()).expect("the line without a mutation is valid");
    let mut random = Random(1);
    let mut rejected = 0;
    for _ in 0..cases() {
        let mut words: Vec<OsString> = line.iter().map(OsString::from).collect();
        for _ in 0..=random.below(3) {
            let at = 2 + random.below(words.len() - 2);
            match random.below(5) {
                0 => drop(words.remove(at)),
                1 => words[at] = random.one_of(&HOSTILE).into(),
                2 => words.insert(at, random.one_of(&HOSTILE).into()),
                #[cfg(unix)]
                3 => {
                    use std::os::unix::ffi::OsStringExt;
                    words[at] = OsString::from_vec([words[at].as_encoded_bytes(), &[0xff]].concat());
                }
                _ => words[at] = edited(&words[at].to_string_lossy(), &mut random).into(),
            }
        }
        if let Err(error) = parse(words.clone()) {
            assert!(matches!(error.kind(), ErrorKind::Usage | ErrorKind::Data), "{words:?}: {error}");
            rejected += 1;
        }
    }
    assert!((cases() / 4..cases() * 19 / 20).contains(&rejected), "{rejected}");
    eprintln!("K1: {} command lines, {rejected} usage errors", cases());
}

#[test]
fn mutated_configuration_files_are_usage_errors_or_valid() {
    let text = "epochs: 3\nbatch_size: 64\nopt: adamw\nopt_betas: [0.9, 0.95]\nopt_kwargs: {amsgrad: true}\nlr: 1e-3\nsched: cosine\n\
                aa: rand-m9-mstd0.5\nmixup: 0.2\nmodel_ema: true\ndevice: cpu\nwandb_tags: []\nlr_base_scale: ''\nno_aug: false\n";
    let resolve = |text: &str| yaml::parse(text, "a.yaml").and_then(|file| Config::resolve(&file.settings));
    resolve(text).expect("the file without a mutation is valid");
    let mut random = Random(2);
    let mut rejected = 0;
    for _ in 0..cases() {
        let mut mutated = text.to_string();
        for _ in 0..=random.below(3) {
            match random.below(3) {
                0 => {
                    let mut lines: Vec<&str> = mutated.lines().collect();
                    let at = random.below(lines.len().max(1));
                    let line = lines.get(at).copied().unwrap_or("");
                    let replaced =
                        format!("{}: {}", line.split(':').next().unwrap_or(""), random.one_of(&HOSTILE));
                    if at < lines.len() {
                        lines[at] = &replaced;
                    }
                    mutated = lines.join("\n");
                }
                _ => mutated = edited(&mutated, &mut random),
            }
        }
        if let Err(error) = resolve(&mutated) {
            assert_eq!(error.kind(), ErrorKind::Usage, "{mutated}: {error}");
            rejected += 1;
        }
    }
    assert!((cases() / 4..cases() * 99 / 100).contains(&rejected), "{rejected}");
    eprintln!("K1: {} configuration files, {rejected} usage errors", cases());
}

/// A name with one wrong character is answered with a name that is as near as any.
#[test]
fn mistyped_names_are_answered_with_the_nearest() {
    let mut random = Random(3);
    let command = command(true);
    let names: Vec<&str> =
        DEFINITIONS.iter().map(|definition| definition.name).filter(|name| name.len() > 4).collect();
    for _ in 0..cases() / 10 {
        let name = random.one_of(&names);
        let mut wrong: Vec<char> = name.chars().collect();
        wrong.remove(1 + random.below(wrong.len() - 1));
        let wrong: String = wrong.into_iter().collect();
        assert!(nearest(&wrong, names.iter().copied()).is_some(), "{wrong}");
        let flag = format!("--{}", wrong.replace('_', "-"));
        let arguments = ["fornax", "train", &flag].map(OsString::from);
        if let Some(error) = usage::unknown_options(&arguments, &command) {
            let text = error.to_string();
            assert!(
                text.contains("did you mean --") || text.contains("it is an option of"),
                "{flag}: {text}"
            );
        }
        if let Err(error) = yaml::parse(&format!("{wrong}: 1\n"), "a.yaml") {
            let text = error.to_string();
            assert!(text.contains("did you mean") || text.contains("invalid value"), "{wrong}: {text}");
        }
    }
}
