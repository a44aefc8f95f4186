//! Confusion matrices.
use super::scene::{Anchor, CHARACTER, Colour, Scene};
use super::thousands;

/// More classes than this get cells without numbers.
const NUMBERED: usize = 20;

/// The scene of a matrix: a row for each true class, a column for each predicted one, shaded by the row's share.
pub fn draw(title: &str, classes: &[String], confusion: &[Vec<u64>]) -> Scene {
    let n = classes.len();
    let numbered = n <= NUMBERED;
    let cell = if numbered { 46.0 } else { (920.0 / n as f64).max(2.0) };
    let longest = classes.iter().map(|c| c.chars().count()).max().unwrap_or(0);
    let left = if numbered { 32.0 + CHARACTER * longest as f64 } else { 32.0 };
    let top = 84.0;
    // Column names stand beside each other only when each is narrower than its column.
    let legend = numbered && CHARACTER * longest as f64 > cell - 4.0;
    let size = cell * n as f64;
    let below = if legend { 48.0 } else { 28.0 };
    let mut scene = Scene::new((left + size + 28.0).max(360.0) as usize, (top + size + below) as usize);
    scene.text(24.0, 24.0, Anchor::Start, Colour::INK, title);
    scene.text(24.0, 46.0, Anchor::Start, Colour::FAINT, "rows: true class, columns: predicted");
    for (row, counts) in confusion.iter().enumerate() {
        let total = counts.iter().sum::<u64>().max(1) as f64;
        let y = top + row as f64 * cell;
        for (column, &count) in counts.iter().enumerate() {
            let x = left + column as f64 * cell;
            let share = count as f64 / total;
            // The root shows the few mistakes beside the many hits.
            let colour = if row == column { Colour::BLUE } else { Colour::ORANGE };
            let shade =
                if count == 0 { Colour(246, 247, 249) } else { colour.tint(0.12 + 0.88 * share.sqrt()) };
            let gap = if numbered { 1.0 } else { 0.0 };
            scene.rectangle(x, y, cell - gap, cell - gap, shade);
            if numbered && count > 0 {
                let ink = if share > 0.3 { Colour::WHITE } else { Colour::INK };
                let text = if count < 100_000 { count.to_string() } else { thousands(count / 1000) + "k" };
                scene.text(x + cell / 2.0, y + cell / 2.0, Anchor::Middle, ink, text);
            }
        }
        if numbered {
            scene.text(left - 8.0, y + cell / 2.0, Anchor::End, Colour::INK, &*classes[row]);
            let name = if legend { short(&classes[row], cell) } else { classes[row].clone() };
            scene.text(left + (row as f64 + 0.5) * cell, top - 12.0, Anchor::Middle, Colour::INK, name);
        }
    }
    if legend {
        let text = "columns are in the order of the rows";
        scene.text(left, top + size + 24.0, Anchor::Start, Colour::FAINT, text);
    }
    scene
}

/// As much of a name as fits into a column.
fn short(name: &str, cell: f64) -> String {
    name.chars().take(((cell - 4.0) / CHARACTER) as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::super::scene::Shape;
    use super::*;

    #[test]
    fn every_cell_is_drawn_and_only_counts_are_written() {
        let classes = ["a", "b"].map(String::from);
        let scene = draw("t", &classes, &[vec![5, 0], vec![1, 7]]);
        let cells = scene.shapes.iter().filter(|s| matches!(s, Shape::Rectangle { .. })).count();
        let texts: Vec<&str> = scene
            .shapes
            .iter()
            .filter_map(|s| if let Shape::Text { text, .. } = s { Some(text.as_str()) } else { None })
            .collect();
        assert_eq!(cells, 4);
        assert!(
            ["5", "1", "7", "a", "b"].iter().all(|t| texts.contains(t)) && !texts.contains(&"0"),
            "{texts:?}"
        );
    }

    #[test]
    fn many_classes_still_make_a_picture_of_sane_size() {
        let classes: Vec<String> = (0..1000).map(|c| format!("class {c}")).collect();
        let scene = draw("t", &classes, &[vec![1; 1000]]);
        assert!(scene.width < 3000 && scene.height < 3000);
    }
}
