//! Python expressions of the epoch: the counterpart of the function passed to PyTorch's `LambdaLR`.
use crate::{Error, Result};
use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

/// Expression such as `0.95 ** epoch` or `1 if epoch < 10 else max(0.1, 1 - epoch / epochs)`.
///
/// Supported are numbers, `epoch` (from 0 at the start of the schedule, fractional if the schedule steps on updates), `epochs` (length of
/// the schedule), `pi`, `+ - * / // % **`, comparisons, `a if condition else b`, and `min max abs exp log sqrt sin cos floor`.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    text: String,
    root: Node,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Number(f64),
    Epoch,
    Epochs,
    Call(Function, Vec<Node>),
    /// `[condition, then, otherwise]`: `then` if the condition is not 0.
    If(Box<[Node; 3]>),
}

type Function = (&'static str, usize, fn(&[f64]) -> f64);

const fn truth(b: bool) -> f64 {
    if b { 1.0 } else { 0.0 }
}

/// Functions: name, number of arguments, implementation.
const FUNCTIONS: &[Function] = &[
    ("min", 2, |x| x[0].min(x[1])),
    ("max", 2, |x| x[0].max(x[1])),
    ("abs", 1, |x| x[0].abs()),
    ("exp", 1, |x| x[0].exp()),
    ("log", 1, |x| x[0].ln()),
    ("sqrt", 1, |x| x[0].sqrt()),
    ("sin", 1, |x| x[0].sin()),
    ("cos", 1, |x| x[0].cos()),
    ("floor", 1, |x| x[0].floor()),
];

/// Binary operators by precedence, lowest first; each row is left-associative.
const OPERATORS: &[&[Function]] = &[
    &[
        ("<=", 2, |x| truth(x[0] <= x[1])),
        (">=", 2, |x| truth(x[0] >= x[1])),
        ("==", 2, |x| truth(x[0] == x[1])),
        ("!=", 2, |x| truth(x[0] != x[1])),
        ("<", 2, |x| truth(x[0] < x[1])),
        (">", 2, |x| truth(x[0] > x[1])),
    ],
    &[("+", 2, |x| x[0] + x[1]), ("-", 2, |x| x[0] - x[1])],
    &[
        ("*", 2, |x| x[0] * x[1]),
        ("//", 2, |x| (x[0] / x[1]).floor()),
        ("/", 2, |x| x[0] / x[1]),
        ("%", 2, |x| x[0] - x[1] * (x[0] / x[1]).floor()),
    ],
];
const POWER: Function = ("**", 2, |x| x[0].powf(x[1]));
const NEGATE: Function = ("-", 1, |x| -x[0]);

/// Maximum nesting depth.
const MAX_DEPTH: u32 = 50;

impl Expression {
    /// Parses an expression. Errors name the offending token.
    pub fn parse(text: &str) -> Result<Expression> {
        let tokens = tokenize(text)?;
        let mut parser = Parser { tokens: &tokens, depth: 0 };
        let root = parser.conditional()?;
        match parser.tokens.first() {
            None => Ok(Expression { text: text.into(), root }),
            Some(word) => Err(syntax_error(format!("{word:?} is not expected"))),
        }
    }

    /// Evaluates the expression.
    pub(super) fn at(&self, epoch: f64, epochs: f64) -> f64 {
        self.root.at(epoch, epochs)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Node {
    fn at(&self, epoch: f64, epochs: f64) -> f64 {
        match self {
            Node::Number(number) => *number,
            Node::Epoch => epoch,
            Node::Epochs => epochs,
            Node::Call((.., function), arguments) => {
                function(&arguments.iter().map(|node| node.at(epoch, epochs)).collect::<Vec<_>>())
            }
            Node::If(nodes) => {
                let [condition, then, otherwise] = &**nodes;
                if condition.at(epoch, epochs) != 0.0 { then } else { otherwise }.at(epoch, epochs)
            }
        }
    }
}

/// Recursive-descent parser over the remaining tokens.
struct Parser<'a> {
    tokens: &'a [String],
    depth: u32,
}

impl Parser<'_> {
    fn accept(&mut self, token: &str) -> bool {
        let found = self.tokens.first().is_some_and(|w| w == token);
        self.tokens = &self.tokens[usize::from(found)..];
        found
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.accept(token) { Ok(()) } else { Err(syntax_error(format!("{token:?} is missing"))) }
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<Node>) -> Result<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(syntax_error("it nests too deeply".into()));
        }
        let node = read(self);
        self.depth -= 1;
        node
    }

    fn conditional(&mut self) -> Result<Node> {
        let then = self.binary(0)?;
        if !self.accept("if") {
            return Ok(then);
        }
        let condition = self.binary(0)?;
        self.expect("else")?;
        let otherwise = self.nested(Self::conditional)?;
        Ok(Node::If(Box::new([condition, then, otherwise])))
    }

    fn binary(&mut self, row: usize) -> Result<Node> {
        let Some(operators) = OPERATORS.get(row) else { return self.unary() };
        let mut left = self.binary(row + 1)?;
        while let Some(operator) = operators.iter().find(|(name, ..)| self.accept(name)) {
            let right = self.binary(row + 1)?;
            left = Node::Call(*operator, vec![left, right]);
        }
        Ok(left)
    }

    /// Unary minus has lower precedence than `**`: `-2 ** 2` is -4.
    fn unary(&mut self) -> Result<Node> {
        if self.accept("-") {
            return Ok(Node::Call(NEGATE, vec![self.nested(Self::unary)?]));
        }
        let base = self.atom()?;
        match self.accept(POWER.0) {
            true => Ok(Node::Call(POWER, vec![base, self.nested(Self::unary)?])),
            false => Ok(base),
        }
    }

    fn atom(&mut self) -> Result<Node> {
        let Some((token, rest)) = self.tokens.split_first() else {
            return Err(syntax_error("it ends too early".into()));
        };
        self.tokens = rest;
        match token.as_str() {
            "(" => {
                let inner = self.nested(Self::conditional)?;
                self.expect(")")?;
                Ok(inner)
            }
            "epoch" => Ok(Node::Epoch),
            "epochs" => Ok(Node::Epochs),
            "pi" => Ok(Node::Number(std::f64::consts::PI)),
            name => match FUNCTIONS.iter().find(|(known, ..)| *known == name) {
                Some(function) => self.call(*function),
                // Rust parses some names as numbers: infinity, nan.
                None => match name.parse() {
                    Ok(number) if !name.starts_with(char::is_alphabetic) => Ok(Node::Number(number)),
                    _ => {
                        let names: Vec<&str> = FUNCTIONS.iter().map(|(name, ..)| *name).collect();
                        Err(syntax_error(format!("{name:?} is not known"))
                            .remedy(format!("there are: epoch, epochs, pi, {}", names.join(", "))))
                    }
                },
            },
        }
    }

    fn call(&mut self, function: Function) -> Result<Node> {
        self.expect("(")?;
        let mut arguments = vec![self.nested(Self::conditional)?];
        while self.accept(",") {
            arguments.push(self.nested(Self::conditional)?);
        }
        self.expect(")")?;
        match function {
            (_, count, _) if count == arguments.len() => Ok(Node::Call(function, arguments)),
            (name, count, _) => {
                Err(syntax_error(format!("{name} takes {count} arguments, not {}", arguments.len())))
            }
        }
    }
}

/// Splits an expression into names, numbers and operators.
fn tokenize(text: &str) -> Result<Vec<String>> {
    let mut tokens = vec![];
    let mut rest = text.chars().peekable();
    while let Some(first) = rest.next() {
        let mut token = String::from(first);
        match first {
            c if c.is_whitespace() => continue,
            c if c.is_ascii_alphabetic() => {
                take_while(&mut rest, &mut token, |_, c| c.is_ascii_alphanumeric())
            }
            c if c.is_ascii_digit() || c == '.' => take_while(&mut rest, &mut token, |word, c| {
                let exponent = matches!(c, '+' | '-') && word.ends_with(['e', 'E']);
                c.is_ascii_alphanumeric() || c == '.' || exponent
            }),
            '*' | '/' => take_while(&mut rest, &mut token, |word, c| word.len() == 1 && word.starts_with(c)),
            '<' | '>' | '=' | '!' => take_while(&mut rest, &mut token, |word, c| word.len() == 1 && c == '='),
            '+' | '-' | '%' | '(' | ')' | ',' => {}
            '^' => {
                return Err(
                    syntax_error("'^' is not known".into()).remedy("a power is written **, as in Python")
                );
            }
            other => return Err(syntax_error(format!("{other:?} is not known"))),
        }
        tokens.push(token);
    }
    Ok(tokens)
}

fn take_while(rest: &mut Peekable<Chars>, token: &mut String, belongs: impl Fn(&str, char) -> bool) {
    while let Some(next) = rest.next_if(|c| belongs(token, *c)) {
        token.push(next);
    }
}

fn syntax_error(why: String) -> Error {
    Error::usage("the learning-rate expression cannot be parsed").at("--lr-lambda").because(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> f64 {
        Expression::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).at(7.0, 10.0)
    }

    #[test]
    fn expressions_evaluate_as_in_python() {
        let cases = [
            ("0.95**epoch", 0.95f64.powf(7.0)),
            ("1e-2 * 2 + 3", 3.02),
            ("2 - 3 - 4", -5.0),
            ("2 ** 3 ** 2", 512.0),
            ("-2 ** 2", -4.0),
            ("2 ** -1", 0.5),
            ("-7 // 2", -4.0),
            ("-7 % 3", 2.0),
            ("8 / 2 / 2", 2.0),
            ("(1 - epoch / epochs) ** 0.5", 0.3f64.sqrt()),
            ("1 if epoch < 5 else 0.1 if epoch <= 7 else 0.01", 0.1),
            ("min(1, epoch) + max(2, 3)", 4.0),
            ("0.5 * (1 + cos(pi * epoch / epochs))", 0.5 * (1.0 + (0.7 * std::f64::consts::PI).cos())),
            ("(epoch != 7) + (epoch == 7) * 2", 2.0),
            (".5 + floor(2.9) + abs(-1) + exp(0) + log(1) + sqrt(4) + sin(0)", 6.5),
        ];
        for (text, expected) in cases {
            assert!((value(text) - expected).abs() < 1e-12, "{text}: {} is not {expected}", value(text));
        }
    }

    #[test]
    fn malformed_expressions_are_rejected() {
        let deep = "(".repeat(100_000);
        let signs = "-".repeat(100_000);
        let cases = [
            "",
            "1 +",
            "epoch epoch",
            "(1",
            "1)",
            "x",
            "import",
            "min(1)",
            "exp 1",
            "1 if 2",
            "1..2",
            "1e",
            "a.b",
            "epoch;1",
            "inf",
            "nan",
            "2 *** 3",
            "1 = 2",
            &deep,
            &signs,
        ];
        for text in cases {
            let error = Expression::parse(text).expect_err(text).to_string();
            assert!(error.contains("--lr-lambda"), "{error}");
        }
    }
}
