import BorgFormat

/// What is wrong in a configuration file, for its administrator: the line, and the key where there is one.
public struct ConfigurationProblem: Error, Hashable, Sendable, CustomStringConvertible {
  /// Counts from 1; nil for what is missing.
  public let line: Int?
  /// With its table, such as `user.alice.permissions`.
  public let key: String?
  public let message: String

  init(line: Int?, key: String? = nil, _ message: String) {
    (self.line, self.key, self.message) = (line, key, message)
  }

  public var description: String {
    let place = [line.map { "line \($0)" }, key].compactMap { $0 }.joined(separator: ", ")
    return place.isEmpty ? message : "\(place): \(message)"
  }
}

/// A configuration file as tables of values, each with its line.
///
/// A subset of TOML 1.0, which every file in it also is, with the same meaning: `[table]`, `[[table]]` and `[a."b/c"]`;
/// `key = value`, where a value is a basic or literal string on one line, a decimal integer, a boolean, or an array of those,
/// over several lines if need be. Left out: dotted keys, inline tables, strings of several lines, dates, floats. Why not a
/// library: what the meaning of a value is can be wrong too, and the libraries at hand know its line no more by then.
struct ConfigurationText {
  indirect enum Value: Equatable {
    case string(String)
    case integer(Int)
    case boolean(Bool)
    case array([Value])
  }

  struct Entry {
    let key: String
    let value: Value
    let line: Int
  }

  struct Table {
    /// The parts between dots; empty for what stands before the first table.
    let name: [String]
    /// Whether it is one of several by double brackets.
    let isElement: Bool
    let line: Int
    var entries: [Entry] = []
  }

  private(set) var tables = [Table(name: [], isElement: false, line: 1)]

  /// Largest file that is read: 1 MiB.
  static let limit = 1 << 20

  init(_ text: String) throws(ConfigurationProblem) {
    var scanner = Scanner(text)
    while !scanner.isAtEnd {
      scanner.skipBlank()
      switch scanner.next {
      case nil, "\n", "#": break
      case "[": try begin(&scanner)
      default:
        let line = scanner.line
        let key = try scanner.key()
        let table = tables[tables.count - 1]
        if let other = table.entries.first(where: { $0.key == key }) {
          throw ConfigurationProblem(line: line, key: key, "is already given in line \(other.line)")
        }
        scanner.skipBlank()
        guard scanner.take("=") else {
          throw ConfigurationProblem(line: line, key: key, "has to be followed by = and a value")
        }
        scanner.skipBlank()
        let value = try scanner.value(key: key)
        tables[tables.count - 1].entries.append(Entry(key: key, value: value, line: line))
      }
      try scanner.endLine()
    }
  }

  private mutating func begin(_ scanner: inout Scanner) throws(ConfigurationProblem) {
    let line = scanner.line
    _ = scanner.take("[")
    let isElement = scanner.take("[")
    var name: [String] = []
    repeat {
      scanner.skipBlank()
      name.append(try scanner.key())
      scanner.skipBlank()
    } while scanner.take(".")
    guard scanner.take("]"), !isElement || scanner.take("]") else {
      throw ConfigurationProblem(line: line, "the name of a table has to end in \(isElement ? "]]" : "]")")
    }
    if let other = tables.first(where: { $0.name == name }), !isElement || !other.isElement {
      throw ConfigurationProblem(
        line: line, "the table \(name.joined(separator: ".")) is already in line \(other.line)")
    }
    tables.append(Table(name: name, isElement: isElement, line: line))
  }

  /// A position in the text.
  private struct Scanner {
    private let scalars: [Unicode.Scalar]
    private var position = 0
    private(set) var line = 1

    init(_ text: String) { scalars = Array(text.unicodeScalars) }

    var isAtEnd: Bool { position >= scalars.count }
    var next: Unicode.Scalar? { isAtEnd ? nil : scalars[position] }

    mutating func take(_ scalar: Unicode.Scalar) -> Bool {
      guard next == scalar else { return false }
      position += 1
      if scalar == "\n" { line += 1 }
      return true
    }

    mutating func skipBlank() { while next == " " || next == "\t" { position += 1 } }

    /// Goes past a comment and the line's end.
    mutating func endLine() throws(ConfigurationProblem) {
      skipBlank()
      if next == "#" { while let scalar = next, scalar != "\n" { _ = take(scalar) } }
      _ = take("\r")
      guard isAtEnd || take("\n") else {
        throw ConfigurationProblem(line: line, "there is more on the line than belongs there")
      }
    }

    mutating func key() throws(ConfigurationProblem) -> String {
      if next == "\"" || next == "'" { return try string() }
      let start = position
      while let scalar = next, Self.isBare(scalar) { position += 1 }
      guard position > start else {
        throw ConfigurationProblem(line: line, "a key has to be here: letters, digits, - and _, or in quotes")
      }
      return text(start..<position)
    }

    private static func isBare(_ scalar: Unicode.Scalar) -> Bool {
      switch scalar {
      case "a"..."z", "A"..."Z", "0"..."9", "-", "_": true
      default: false
      }
    }

    private func text(_ range: Range<Int>) -> String {
      var text = ""
      text.unicodeScalars.append(contentsOf: scalars[range])
      return text
    }

    mutating func value(key: String, depth: Int = 0) throws(ConfigurationProblem) -> Value {
      switch next {
      case "\"", "'": return .string(try string())
      case "[" where depth < 4: return .array(try array(key: key, depth: depth))
      default:
        let start = position
        while let scalar = next, Self.isBare(scalar) || scalar == "+" || scalar == "." { position += 1 }
        let word = text(start..<position)
        switch word {
        case "true": return .boolean(true)
        case "false": return .boolean(false)
        case "":
          throw ConfigurationProblem(line: line, key: key, "has no value")
        default:
          guard let number = Int(word.filter { $0 != "_" }), !word.hasPrefix("_"), !word.hasSuffix("_") else {
            throw ConfigurationProblem(
              line: line, key: key, "is \(word.shortened), which is no number; text has to be in quotes")
          }
          return .integer(number)
        }
      }
    }

    private mutating func array(key: String, depth: Int) throws(ConfigurationProblem) -> [Value] {
      _ = take("[")
      var values: [Value] = []
      while true {
        try skipLines()
        if take("]") { return values }
        guard !isAtEnd else { throw ConfigurationProblem(line: line, key: key, "has a [ without ]") }
        values.append(try value(key: key, depth: depth + 1))
        try skipLines()
        guard take(",") || next == "]" else {
          throw ConfigurationProblem(line: line, key: key, "needs a comma between the values of its list")
        }
      }
    }

    private mutating func skipLines() throws(ConfigurationProblem) {
      skipBlank()
      while next == "\n" || next == "\r" || next == "#" {
        try endLine()
        skipBlank()
      }
    }

    private mutating func string() throws(ConfigurationProblem) -> String {
      let quote: Unicode.Scalar = next == "'" ? "'" : "\""
      _ = take(quote)
      var text = ""
      while let scalar = next, scalar != "\n" {
        position += 1
        if scalar == quote { return text }
        if scalar == "\\", quote == "\"" {
          text.unicodeScalars.append(try escaped())
        } else {
          guard scalar.value >= 0x20 && scalar.value != 0x7f || scalar == "\t" else { break }
          text.unicodeScalars.append(scalar)
        }
      }
      throw ConfigurationProblem(line: line, "a text has to end on its line, by \(quote)")
    }

    private mutating func escaped() throws(ConfigurationProblem) -> Unicode.Scalar {
      guard let scalar = next else { throw ConfigurationProblem(line: line, "a text has no end") }
      position += 1
      switch scalar {
      case "\"", "\\": return scalar
      case "t": return "\t"
      case "n": return "\n"
      case "u", "U":
        let digits = scalar == "u" ? 4 : 8
        let hex = text(position..<min(position + digits, scalars.count))
        guard hex.unicodeScalars.count == digits, let value = UInt32(hex, radix: 16),
          let result = Unicode.Scalar(value)
        else {
          throw ConfigurationProblem(line: line, "\\\(scalar) has to be followed by \(digits) hex digits")
        }
        position += digits
        return result
      default:
        throw ConfigurationProblem(line: line, "\\\(scalar) means nothing; a backslash is written \\\\")
      }
    }
  }
}
