//! Configuration files: a YAML mapping from the options of `fornax train` to values, checked by the command line's parser.
use super::timm::GivenTimmOptions;
use super::usage;
use crate::config::IgnoredOption;
use crate::error::ErrorKind;
use crate::nearest::{nearest, synonym};
use crate::settings::{DEFINITIONS, Settings, TimmOption};
use crate::{Error, Result};
use clap::{Arg, Args, Command, FromArgMatches};
use serde_json::Value;
use serde_saphyr::Spanned;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;
use std::sync::LazyLock;

/// Contents of a configuration file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigFile {
    /// Settings.
    pub settings: Settings,
    /// Other options of `fornax train`, such as `device` and `output`: name and arguments.
    pub run_options: Vec<(String, Vec<String>)>,
    /// Line of each option.
    pub lines: BTreeMap<String, u64>,
    /// Options of timm that are given, not at their defaults, and have no effect.
    pub ignored: Vec<IgnoredOption>,
}

/// Options of `fornax train` that are not keys of a configuration file.
const NOT_KEYS: [&str; 3] = ["config", "help", "help_all"];

/// Largest configuration file in bytes; timm's have 5,000.
const MAX_BYTES: u64 = 1 << 20;
/// Unknown settings that an error lists.
const MAX_LISTED: usize = 20;

/// Reads a configuration file. Errors name the line.
pub fn read(path: &Path) -> Result<ConfigFile> {
    let what = "the configuration file cannot be read";
    let unreadable = |e| Error::unreadable(ErrorKind::Usage, what, path, &e);
    let mut bytes = vec![];
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let not_yaml = |why: &str| {
        let is_weights =
            path.extension().is_some_and(|e| ["safetensors", "pth", "pt", "tar"].iter().any(|w| e == *w));
        Error::usage("the configuration file is not a YAML file").at_path(path).because(why).remedy(
            match is_weights {
                true => "pass weights with --pretrained-path, or a run with --resume",
                false => "pass a text file with options of `fornax train`, such as the args.yaml of a run",
            },
        )
    };
    if bytes.contains(&0) {
        return Err(not_yaml("it is not text"));
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(not_yaml("it is larger than 1 MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| not_yaml("it is not UTF-8 text"))?;
    parse(&text, &path.display().to_string())
}

pub(super) fn parse(text: &str, name: &str) -> Result<ConfigFile> {
    let map: Option<BTreeMap<String, Spanned<Value>>> =
        serde_saphyr::from_str(text).map_err(|e| not_a_mapping(name, text, &e))?;
    let mut entries: Vec<(String, Value, u64)> = map
        .unwrap_or_default()
        .into_iter()
        .map(|(key, Spanned { value, referenced, .. })| (key.replace('-', "_"), value, referenced.line()))
        .collect();
    entries.sort_by_key(|entry| entry.2);
    static COMMAND: LazyLock<Command> = LazyLock::new(|| super::command(true));
    static SETTINGS: LazyLock<Command> = LazyLock::new(|| {
        let command = Settings::augment_args(Command::new("settings").args_override_self(true));
        super::with_boolean_flags(command)
    });
    let program = String::from("settings");
    let train = COMMAND.find_subcommand("train").expect("it is a subcommand");
    let (mut file, mut arguments, mut unknown) = (ConfigFile::default(), vec![], vec![]);
    let (mut of_timm, options) = (GivenTimmOptions::default(), options(train));
    let mut invalid = vec![];
    for (key, value, line) in &entries {
        let location = format!("{name}, line {line}");
        if let Some(option) = TimmOption::find(key) {
            of_timm.push(option, value, &location);
            continue;
        }
        let Some(arg) = options.get(key) else {
            unknown.push((key.as_str(), *line));
            continue;
        };
        let id = arg.get_id().as_str();
        // An alias at its default must not replace the option itself.
        if is_unset(key, value) || (key != id && *value == false) {
            continue;
        }
        let given = arguments_of(id, value);
        // Each option is parsed alone first, so that an error can name its line.
        let is_setting = DEFINITIONS.iter().any(|definition| definition.name == id);
        let parser = if is_setting { &*SETTINGS } else { train };
        let arguments_alone = std::iter::once(&program).chain(&given);
        let matches = parser.clone().try_get_matches_from(arguments_alone);
        match matches {
            Err(e) => {
                invalid.push(usage::invalid_setting(&e, id, key, &location));
                continue;
            }
            // A second value of another option would be taken for the dataset.
            Ok(matches) if !is_setting && matches.contains_id("dir") => {
                let error = Error::usage(format!("invalid value of {key}")).at(&location);
                invalid.push(error.because("one value is expected"));
                continue;
            }
            Ok(_) => {}
        }
        file.lines.insert(id.into(), *line);
        match is_setting {
            true => arguments.extend(given),
            false => file.run_options.push((id.into(), given)),
        }
    }
    if !unknown.is_empty() {
        return Err(unknown_keys(train, &unknown, name));
    }
    if let Some(error) = usage::together(invalid) {
        return Err(error);
    }
    file.ignored = of_timm.finish()?;
    let matches = SETTINGS.clone().try_get_matches_from(std::iter::once(&program).chain(&arguments));
    file.settings = matches
        .and_then(|matches| Settings::from_arg_matches(&matches))
        .map_err(|e| usage::error(&e, &[], train).at(name))?;
    Ok(file)
}

/// The options by their keys, which have underscores.
fn options(train: &Command) -> HashMap<String, &Arg> {
    let keys = train.get_arguments().filter(|arg| !NOT_KEYS.contains(&arg.get_id().as_str()));
    let names = |arg: &Arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        let names = arg.get_long().into_iter().chain(aliases);
        names.map(|name| name.replace('-', "_")).collect::<Vec<_>>()
    };
    keys.flat_map(|arg| names(arg).into_iter().map(move |name| (name, arg))).collect()
}

/// True for null and for empty values, which stand for "not given"; an empty validation split means "no validation".
fn is_unset(key: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() && key != "val_split",
        Value::Array(values) => values.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn unknown_keys(train: &Command, unknown: &[(&str, u64)], name: &str) -> Error {
    let keys = || {
        let options = train.get_arguments().filter(|arg| !NOT_KEYS.contains(&arg.get_id().as_str()));
        options.filter(|arg| !arg.is_hide_set()).filter_map(Arg::get_long)
    };
    let names: Vec<String> = keys().map(|key| key.replace('-', "_")).collect();
    let near = |key: &str| {
        let synonym = synonym(key).map(|own| own.replace('-', "_"));
        synonym.or_else(|| nearest(key, names.iter().map(String::as_str)).map(String::from))
    };
    if let [(key, line)] = unknown {
        let error = Error::usage(format!("unknown setting {key:?}")).at(format!("{name}, line {line}"));
        return error.remedy(match near(key) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "`fornax train --help-all` lists them".into(),
        });
    }
    let listed = unknown.iter().take(MAX_LISTED).map(|(key, line)| match near(key) {
        Some(near) => format!("line {line}: {key:?}; did you mean {near:?}?"),
        None => format!("line {line}: {key:?}"),
    });
    let others = unknown.len().saturating_sub(MAX_LISTED);
    let lines = listed.chain((others > 0).then(|| format!("and {others} others")));
    Error::usage(format!("{} unknown settings", unknown.len()))
        .at(name)
        .because(lines.collect::<Vec<_>>().join("\n"))
        .remedy("`fornax train --help-all` lists the settings")
}

fn not_a_mapping(name: &str, text: &str, error: &serde_saphyr::Error) -> Error {
    if let serde_saphyr::Error::DuplicateMappingKey { key, location } = error.without_snippet() {
        let key = key.as_deref().unwrap_or("a key");
        return Error::usage(format!("key `{key}` appears twice (line {})", location.line()))
            .at(name)
            .remedy("remove one of the two");
    }
    let is_indented_by_tab = |line: &str| line.trim_start_matches(' ').starts_with('\t');
    if let Some(line) = text.lines().position(is_indented_by_tab) {
        return Error::usage("the configuration file is not a YAML mapping")
            .at(format!("{name}, line {}", line + 1))
            .because("the line is indented by a tab")
            .remedy("indent with spaces");
    }
    Error::usage("the configuration file is not a YAML mapping")
        .at(name)
        .because(error.to_string().trim_start_matches("error: "))
}

/// An option as command-line arguments.
fn arguments_of(id: &str, value: &Value) -> Vec<String> {
    let flag = format!("--{}", id.replace('_', "-"));
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".into(),
        other => other.to_string(),
    };
    match value {
        Value::Array(values) if id == "seeds" => {
            vec![format!("{flag}={}", values.iter().map(text).collect::<Vec<_>>().join(","))]
        }
        Value::Array(values) => std::iter::once(flag).chain(values.iter().map(text)).collect(),
        Value::Object(map) => {
            let pairs = map.iter().map(|(name, value)| format!("{name}={}", text(value)));
            std::iter::once(flag).chain(pairs).collect()
        }
        value => vec![format!("{flag}={}", text(value))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Sched;

    #[test]
    fn values_of_every_type_are_parsed() {
        let text = "epochs: 3\nopt: adamw\nlr: 1e-3\nopt_betas: [0.8, 0.9]\nsched-on-updates: false\ndata_dir: null\n\
                    sched: 'constant'\nopt_kwargs: {fixed_decay: true}\nmodel_kwargs: {}\ninterpolation: ''\n";
        let expected = Settings {
            epochs: Some(3),
            opt: Some("adamw".parse().expect("a name")),
            lr: Some(1e-3),
            opt_betas: Some(vec![0.8, 0.9]),
            opt_kwargs: Some(vec!["fixed_decay=true".into()]),
            sched_on_updates: Some(false),
            sched: Some(Sched::Constant),
            ..Settings::default()
        };
        let file = parse(text, "a.yaml").expect("valid");
        assert_eq!(file.settings, expected);
        assert_eq!((file.lines["epochs"], file.lines["sched"]), (1, 7));
        assert_eq!(parse("# nothing\n", "a.yaml").expect("valid"), ConfigFile::default());
    }

    #[test]
    fn options_of_the_run_and_of_timm_are_keys() {
        let file = parse(
            "device: cpu\nchannels_last: true\njsd: false\njsd_loss: true\nlog_wandb: false\n",
            "a.yaml",
        );
        let file = file.expect("valid");
        assert_eq!(file.run_options, [("device".to_string(), vec!["--device=cpu".to_string()])]);
        assert_eq!(file.ignored[0].name, "channels_last");
        assert_eq!(file.ignored.len(), 1);
        assert_eq!(file.settings.jsd_loss, Some(true), "an alias at its default changes nothing");
        let error = parse("epochs: 1\nlog_wandb: true\n", "a.yaml").expect_err("rejected").to_string();
        assert!(error.contains("a.yaml, line 2") && error.contains("metrics.jsonl"), "{error}");
        let error = parse("kd_model_name: a\nlog_wandb: true\n", "a.yaml").expect_err("rejected").to_string();
        for part in ["2 options", "--kd-model-name (a.yaml, line 1)", "--log-wandb (a.yaml, line 2)"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn lists_of_seeds_are_parsed() {
        for text in ["seeds: [1, 2]\n", "seeds: 1,2\n", "seeds: 1-2\n"] {
            let seeds = parse(text, "a.yaml").expect(text).settings.seeds.expect("given");
            assert_eq!(seeds.list(), [1, 2], "{text}");
        }
    }

    #[test]
    fn many_unknown_keys_are_an_error_within_a_second() {
        let text: String = (0..80_000).map(|i| format!("k{i}: 1\n")).collect();
        let start = std::time::Instant::now();
        let error = parse(&text, "a.yaml").expect_err("unknown").to_string();
        assert!(error.contains("80000 unknown settings") && error.contains("and 79980 others"), "{error}");
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    }

    #[test]
    fn files_that_are_not_yaml_are_rejected_as_such() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes, parts) in [
            ("best.safetensors", vec![8, 0, 0, 0, 0xff], ["it is not text", "--pretrained-path"]),
            ("a.yaml", vec![b'#', 0xff], ["not UTF-8", "args.yaml"]),
            ("b.yaml", vec![b'#'; 2 << 20], ["larger than 1 MiB", "args.yaml"]),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("writes");
            let error = read(&path).expect_err(name).to_string();
            for part in parts.iter().chain(&["is not a YAML file"]) {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
    }

    #[test]
    fn errors_name_their_line() {
        let cases = [
            ("epochs: 3\nepoch: 4\n", "line 2", "did you mean \"epochs\"?"),
            ("\nepochs: many\n", "line 2", "must be a whole number"),
            ("epochs: [1, 2]\n", "line 1", "invalid value of epochs"),
            ("opt_betas: [0.9]\n", "line 1", "2 values"),
            ("- a\n- b\n", "a.yaml", "not a YAML mapping"),
            ("epochs: 1\n\tlr: 2\n", "a.yaml, line 2", "indented by a tab"),
            ("learning_rate: 1\n", "line 1", "did you mean \"lr\"?"),
            ("crop_pct: 95\nlr: x\n", "a.yaml, line 1", "it is a fraction: 0.95"),
            ("crop_pct: 95\nlr: x\n", "2 invalid values", "a.yaml, line 2"),
            ("epochs: 1\nepochs: 2\n", "a.yaml", "key `epochs` appears twice (line 2)"),
            ("help: true\n", "line 1", "unknown setting"),
            ("a: &a [*a]\n", "a.yaml", ""),
            (
                "zzzz: 1\nlr: 1\nbatchsize: 2\n",
                "a.yaml",
                "line 1: \"zzzz\"\n         line 3: \"batchsize\"; did you mean",
            ),
        ];
        for (text, location, what) in cases {
            let error = parse(text, "a.yaml").expect_err(text);
            assert_eq!(error.kind(), crate::error::ErrorKind::Usage);
            let message = error.to_string();
            assert!(message.contains(location) && message.contains(what), "{text:?}: {message}");
        }
    }
}
