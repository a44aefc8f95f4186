//! Every case of the golden folder, one named test per topic: `cargo test -p fornax-tests --test golden [-- TOPIC]`.
//!
//! `training_trajectory` also runs through the binary, as `training_trajectory_by_command_line`.
//!
//! `FORNAX_GOLDEN` selects another folder, `FORNAX_TEST_DEVICES` (default `cpu`) the devices, `FORNAX_BINARY` the binary instead of one that
//! cargo builds. A topic that is not implemented yet is ignored by default, and fails when it is selected by name.
use fornax::device::DeviceSpec;
use fornax_engine::Device;
use fornax_tests::golden::{TOPICS, Topic, folder, training_trajectory};
use fornax_tests::heartbeat;
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let args = Arguments::from_args();
    let devices = std::env::var("FORNAX_TEST_DEVICES").unwrap_or_else(|_| "cpu".into());
    let mut trials = vec![Trial::test("every_file_is_a_known_topic", every_file_is_a_known_topic)];
    for (name, check) in TOPICS {
        for device in devices.split(',').map(str::trim).filter(|d| !d.is_empty()) {
            let title = if devices.contains(',') { format!("{name}@{device}") } else { (*name).to_string() };
            let device = device.to_string();
            trials.push(match check {
                Some(check) => Trial::test(title, move || {
                    check(&Topic::load(&folder(), name, device_of(&device)?)?)?;
                    Ok(())
                }),
                None => Trial::test(title, || Err("this topic is not implemented yet".into()))
                    .with_ignored_flag(args.filter.is_none()),
            });
        }
    }
    for device in devices.split(',').map(str::trim).filter(|d| !d.is_empty()).map(String::from) {
        let name = "training_trajectory_by_command_line";
        let title = if devices.contains(',') { format!("{name}@{device}") } else { name.into() };
        trials.push(Trial::test(title, move || {
            let topic = Topic::load(&folder(), "training_trajectory", device_of(&device)?)?;
            training_trajectory::command_line::check(&topic, &binary()?, &device)?;
            Ok(())
        }));
    }
    libtest_mimic::run(&args, trials).exit();
}

/// The binary `FORNAX_BINARY`; without that variable, builds `fornax` in the profile of this test.
fn binary() -> Result<PathBuf, Failed> {
    if let Some(path) = std::env::var_os("FORNAX_BINARY") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(2).ok_or("the test is in no target folder")?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => return Err("the target folder has no profile".into()),
    };
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Variables about the package of this test would make cargo build dependencies again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            build.env_remove(name);
        }
    }
    let build = build.args(["build", "--quiet", "-p", "fornax", "--profile", profile]).output()?;
    match build.status.success() {
        true => Ok(folder.join("fornax")),
        false => Err(String::from_utf8_lossy(&build.stderr).into_owned().into()),
    }
}

fn device_of(name: &str) -> Result<Device, Failed> {
    let choice: DeviceSpec = name.parse().map_err(|e| format!("FORNAX_TEST_DEVICES: {name} {e}"))?;
    let device = choice.open().map_err(|e| e.to_string())?;
    heartbeat::start_if_wanted(device);
    Ok(device)
}

/// Fails on a file of an unknown topic.
fn every_file_is_a_known_topic() -> Result<(), Failed> {
    let folder = folder();
    let mut found = 0;
    for entry in std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".json").filter(|s| *s != "manifest") else { continue };
        found += 1;
        if !TOPICS.iter().any(|(topic, _)| *topic == stem) {
            return Err(format!("{name}: unknown topic; add it to TOPICS").into());
        }
    }
    if found == 0 {
        Err(format!("{} contains no topic; check FORNAX_GOLDEN", folder.display()).into())
    } else {
        Ok(())
    }
}
