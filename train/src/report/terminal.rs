//! A curve in a terminal: two by four dots in each character.

const WIDTH: usize = 64;
const HEIGHT: usize = 12;
/// The bit of each dot in a character of Unicode's Braille patterns, by row and column.
const DOTS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

/// The curve through finite values that are equally far apart, from the lowest to the highest, with these as labels.
pub fn curve(values: &[f64]) -> String {
    let (low, high) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
    let (columns, rows) = (2 * WIDTH, 4 * HEIGHT);
    let row = |value: f64| match high > low {
        true => ((high - value) / (high - low) * (rows - 1) as f64).round() as usize,
        false => rows / 2,
    };
    let mut cells = vec![0u32; WIDTH * HEIGHT];
    let mut last = None;
    for column in 0..columns {
        let Some(value) = values.get(column * values.len().saturating_sub(1) / (columns - 1)) else { break };
        let at = row(*value);
        // A jump is drawn as a line.
        let from =
            last.map_or(at, |last: usize| if last < at { last + 1 } else { last.saturating_sub(1).max(at) });
        for y in from.min(at)..=from.max(at) {
            cells[y / 4 * WIDTH + column / 2] |= DOTS[y % 4][column % 2];
        }
        last = Some(at);
    }
    let character = |cell: &u32| char::from_u32(0x2800 + cell).unwrap_or(' ');
    let mut text = String::new();
    for (i, line) in cells.chunks(WIDTH).enumerate() {
        let label = match i {
            0 => format!("{high:.2e}"),
            _ if i == HEIGHT - 1 => format!("{low:.2e}"),
            _ => String::new(),
        };
        let line: String = line.iter().map(character).collect();
        text.push_str(&format!("{label:>9} │{}\n", line.trim_end_matches('\u{2800}')));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::curve;

    #[test]
    fn a_line_runs_from_corner_to_corner() {
        let text = curve(&(0..500).map(f64::from).collect::<Vec<_>>());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 12);
        assert!(lines[0].starts_with(" 4.99e2 │") || lines[0].starts_with("   4.99e2 │"), "{text}");
        assert!(lines[0].ends_with(|c| c > '\u{2800}') && lines[0].chars().count() == 9 + 2 + 64, "{text}");
        assert!(lines[11].chars().nth(11).is_some_and(|c| c > '\u{2800}'), "{text}");
    }

    #[test]
    fn constants_and_nothing_are_drawn_too() {
        assert!(curve(&[3.0]).chars().any(|c| c > '\u{2800}'));
        assert!(!curve(&[]).chars().any(|c| c > '\u{2800}'));
    }
}
