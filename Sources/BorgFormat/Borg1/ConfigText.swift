/// Text in the dialect of Python's `ConfigParser` without interpolation, as Borg 1 keeps its settings.
///
/// Sections `[name]`, options `name = value` or `name: value`, whole lines of comment after `#` or `;`. A line that is
/// indented deeper than its option goes on with the value. Names of options lose their capitals. What is written again
/// has every section and option in its old order; comments are lost.
///
/// Source: CPython 3.11 `Lib/configparser.py`.
struct ConfigText: Equatable, Sendable {
  struct Option: Equatable, Sendable {
    let name: String
    var value: String
  }

  struct Section: Equatable, Sendable {
    let name: String
    var options: [Option] = []

    subscript(name: String) -> String? { options.first { $0.name == name }?.value }
  }

  /// The section whose options every other one has too, written first; else as any other.
  static let defaultSection = "DEFAULT"

  private(set) var sections: [Section]

  init(sections: [Section]) {
    self.sections = sections
  }

  /// Reads a text that is UTF-8; throws for what the original's parser raises an error on.
  init(parsing bytes: [UInt8]) throws(ConfigFault) {
    guard let text = String(validating: bytes, as: UTF8.self) else { throw .invalid("not UTF-8") }
    var reader = ConfigReader()
    for line in Self.lines(of: text) { try reader.take(line) }
    sections = reader.finish()
  }

  /// The value of an option, the default section's where the section itself has none.
  func value(_ name: String, in section: String) -> String? {
    guard let own = sections.first(where: { $0.name == section }) else { return nil }
    return own[name] ?? sections.first { $0.name == Self.defaultSection }?[name]
  }

  /// Gives an option of an existing section another value, at its old place or as the last one; `nil` removes it.
  mutating func set(_ name: String, in section: String, to value: String?) {
    guard let place = sections.firstIndex(where: { $0.name == section }) else { return }
    let option = sections[place].options.firstIndex { $0.name == name }
    switch (option, value) {
    case (let option?, let value?): sections[place].options[option].value = value
    case (let option?, nil): sections[place].options.remove(at: option)
    case (nil, let value?): sections[place].options.append(Option(name: name, value: value))
    case (nil, nil): break
    }
  }

  /// The text as the original writes it.
  func encode() -> [UInt8] {
    var text: [UInt8] = []
    let defaults = sections.filter { $0.name == Self.defaultSection && !$0.options.isEmpty }
    for section in defaults + sections.filter({ $0.name != Self.defaultSection }) {
      text.append(contentsOf: "[\(section.name)]\n".utf8)
      for option in section.options {
        text.append(contentsOf: "\(option.name) = ".utf8)
        for byte in option.value.utf8 {
          text.append(byte)
          if byte == UInt8(ascii: "\n") { text.append(UInt8(ascii: "\t")) }
        }
        text.append(UInt8(ascii: "\n"))
      }
      text.append(UInt8(ascii: "\n"))
    }
    return text
  }

  /// Lines without their ends, which may be those of any system.
  private static func lines(of text: String) -> [ArraySlice<Unicode.Scalar>] {
    let scalars = Array(text.unicodeScalars)
    var lines: [ArraySlice<Unicode.Scalar>] = []
    var start = 0
    var index = 0
    while index < scalars.count {
      let isEnd = scalars[index] == "\n" || scalars[index] == "\r"
      if isEnd { lines.append(scalars[start..<index]) }
      if scalars[index] == "\r", index + 1 < scalars.count, scalars[index + 1] == "\n" { index += 1 }
      index += 1
      if isEnd { start = index }
    }
    if start < scalars.count { lines.append(scalars[start...]) }
    return lines
  }
}

/// What has been read so far, line by line.
private struct ConfigReader {
  private var sections: [ConfigText.Section] = []
  /// Places in `sections`, and of options in their sections: a hostile text has many of them.
  private var sectionPlaces: [String: Int] = [:]
  private var optionNames: [Set<String>] = []
  /// Lines of the values of the section that is being read, to be joined.
  private var current: Int?
  /// Whether an option is open, to which further lines belong.
  private var hasOption = false
  private var lines: [String] = []
  private var indentation = 0

  init() {}

  mutating func take(_ line: ArraySlice<Unicode.Scalar>) throws(ConfigFault) {
    let value = trimmed(line)
    let isComment = value.first == "#" || value.first == ";"
    if value.isEmpty || isComment {
      // An empty line may belong to a value, which loses those at its end; a comment does not.
      if !isComment, hasOption { lines.append("") }
      return
    }
    let depth = value.startIndex - line.startIndex
    if hasOption, depth > indentation {
      lines.append(string(value))
      return
    }
    indentation = depth
    if value.first == "[", let end = value.lastIndex(of: "]"), end > value.startIndex + 1 {
      try begin(section: string(value[(value.startIndex + 1)..<end]))
    } else {
      try begin(option: value)
    }
  }

  mutating func finish() -> [ConfigText.Section] {
    closeOption()
    return sections
  }

  private mutating func begin(section name: String) throws(ConfigFault) {
    closeOption()
    if let place = sectionPlaces[name] {
      guard name == ConfigText.defaultSection else { throw .invalid("section '\(name)' already exists") }
      current = place
    } else {
      current = sections.count
      sectionPlaces[name] = sections.count
      sections.append(ConfigText.Section(name: name))
      optionNames.append([])
    }
  }

  private mutating func begin(option line: ArraySlice<Unicode.Scalar>) throws(ConfigFault) {
    closeOption()
    guard let current else { throw .invalid("File contains no section headers.") }
    guard let mark = line.firstIndex(where: { $0 == "=" || $0 == ":" }), mark > line.startIndex else {
      throw .invalid("Source contains parsing errors")
    }
    let name = string(trimmed(line[..<mark])).lowercased()
    guard optionNames[current].insert(name).inserted else {
      throw .invalid("option '\(name)' in section '\(sections[current].name)' already exists")
    }
    sections[current].options.append(ConfigText.Option(name: name, value: ""))
    hasOption = true
    lines = [string(trimmed(line[(mark + 1)...]))]
  }

  private mutating func closeOption() {
    guard hasOption, let current, let last = sections[current].options.indices.last else { return }
    let joined = Array(lines.joined(separator: "\n").unicodeScalars)
    let start = joined.startIndex
    let end = joined.lastIndex { !isBlank($0) }.map { $0 + 1 } ?? start
    sections[current].options[last].value = string(joined[start..<end])
    hasOption = false
    lines = []
  }
}

/// Without white space at both ends, as Python's `str.strip` takes it.
private func trimmed(_ text: ArraySlice<Unicode.Scalar>) -> ArraySlice<Unicode.Scalar> {
  guard let first = text.firstIndex(where: { !isBlank($0) }),
    let last = text.lastIndex(where: { !isBlank($0) })
  else { return text[text.endIndex...] }
  return text[first...last]
}

private func string(_ scalars: ArraySlice<Unicode.Scalar>) -> String {
  var string = ""
  string.unicodeScalars.append(contentsOf: scalars)
  return string
}

/// What Python's `str.isspace` is true for.
private func isBlank(_ scalar: Unicode.Scalar) -> Bool {
  switch scalar.value {
  case 0x09...0x0d, 0x1c...0x20, 0x85, 0xa0, 0x1680, 0x2000...0x200a, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000:
    true
  default: false
  }
}

extension String {
  /// Without white space at both ends, as Python's `str.strip` takes it.
  var stripped: String { string(trimmed(Array(unicodeScalars)[...])) }
}
