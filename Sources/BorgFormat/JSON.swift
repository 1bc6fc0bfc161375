/// Why bytes are not the JSON that was looked for; offsets count from the first byte of the text.
public enum JSONError: Error, Equatable, Sendable {
  /// More bytes than the caller allows.
  case tooLarge(limit: Int)
  /// Arrays and objects inside each other beyond what the caller allows.
  case tooDeep(limit: Int)
  /// The text ends inside a value.
  case truncated
  /// A byte that cannot stand here; also one that follows the value.
  case unexpectedByte(offset: Int)
  /// A string, starting at `offset`, that is not UTF-8.
  case invalidUTF8(offset: Int)
}

/// A JSON value, and the reader for the small texts that Borg keeps in a repository: lock records,
/// chunk-index metadata.
///
/// Not for large texts: every value is built in memory. Source: RFC 8259; where it leaves a choice,
/// Python 3.11's `json.loads`: of members with the same name the last counts, and a number may have any
/// magnitude. Python's `NaN` and `Infinity` are refused. Half of a surrogate pair, which no `String` can
/// hold, becomes U+FFFD.
public enum JSON: Equatable, Sendable {
  /// The word `null`.
  case null
  /// The words `true` and `false`.
  case bool(Bool)
  /// A number without fraction and exponent that fits.
  case int(Int)
  /// Any other number; infinite where the text is beyond the type.
  case double(Double)
  /// Text with its escapes resolved.
  case string(String)
  /// Values in the order of the text.
  case array([JSON])
  /// In the order of the text, members with the same name included.
  case object([Member])

  /// One name and its value in an object.
  public struct Member: Equatable, Sendable {
    public let name: String
    public let value: JSON

    /// A member of an object.
    public init(name: String, value: JSON) {
      self.name = name
      self.value = value
    }
  }

  /// Nesting that every text Borg writes keeps far below; it bounds the reader's stack.
  public static let defaultDepth = 16

  /// Reads a text that is one value, with nothing but white space around it.
  ///
  /// Both limits are inclusive: `maximumSize` in bytes, `maximumDepth` in arrays and objects around a
  /// value.
  public init(
    parsing text: Span<UInt8>, maximumSize: Int = Limits.lockRecord, maximumDepth: Int = defaultDepth
  ) throws(JSONError) {
    guard text.count <= maximumSize else { throw .tooLarge(limit: maximumSize) }
    var reader = JSONReader(maximumDepth: maximumDepth)
    self = try reader.value(in: text, depth: 0)
    reader.skipBlanks(in: text)
    guard reader.offset == text.count else { throw .unexpectedByte(offset: reader.offset) }
  }

  /// The value of the last member with this name; `nil` without one, or where this is no object.
  public subscript(name: String) -> JSON? {
    guard case .object(let members) = self else { return nil }
    return members.last { $0.name == name }?.value
  }

  /// Appends a string in quotes and pure ASCII, byte for byte as Python's `json.dumps` writes it.
  ///
  /// Everything outside of blank to tilde is escaped, with lower-case hex digits and surrogate pairs.
  public static func append(quoted text: String, to output: inout [UInt8]) {
    output.append(quote)
    for unit in text.utf16 {
      switch unit {
      case 0x22: output.append(contentsOf: [backslash, quote])
      case 0x5C: output.append(contentsOf: [backslash, backslash])
      case 0x20...0x7E: output.append(UInt8(truncatingIfNeeded: unit))
      case 0x08: output.append(contentsOf: [backslash, UInt8(ascii: "b")])
      case 0x09: output.append(contentsOf: [backslash, UInt8(ascii: "t")])
      case 0x0A: output.append(contentsOf: [backslash, UInt8(ascii: "n")])
      case 0x0C: output.append(contentsOf: [backslash, UInt8(ascii: "f")])
      case 0x0D: output.append(contentsOf: [backslash, UInt8(ascii: "r")])
      default:
        output.append(contentsOf: [backslash, UInt8(ascii: "u")])
        let bytes: [2 of UInt8] = [UInt8(truncatingIfNeeded: unit &>> 8), UInt8(truncatingIfNeeded: unit)]
        Hex.append(bytes.span, to: &output)
      }
    }
    output.append(quote)
  }
}

private let quote = UInt8(ascii: "\"")
private let backslash = UInt8(ascii: "\\")

/// A cursor; after an error its position means nothing.
private struct JSONReader {
  let maximumDepth: Int
  var offset = 0

  init(maximumDepth: Int) {
    self.maximumDepth = maximumDepth
  }

  mutating func value(in text: Span<UInt8>, depth: Int) throws(JSONError) -> JSON {
    skipBlanks(in: text)
    switch try peek(in: text) {
    case UInt8(ascii: "{"): return .object(try members(in: text, depth: depth + 1))
    case UInt8(ascii: "["): return .array(try elements(in: text, depth: depth + 1))
    case quote: return .string(try string(in: text))
    case UInt8(ascii: "t"):
      try word("true", in: text)
      return .bool(true)
    case UInt8(ascii: "f"):
      try word("false", in: text)
      return .bool(false)
    case UInt8(ascii: "n"):
      try word("null", in: text)
      return .null
    default: return try number(in: text)
    }
  }

  mutating func skipBlanks(in text: Span<UInt8>) {
    while offset < text.count {
      switch text[offset] {
      case 0x20, 0x09, 0x0A, 0x0D: offset += 1
      default: return
      }
    }
  }

  private func peek(in text: Span<UInt8>) throws(JSONError) -> UInt8 {
    guard offset < text.count else { throw .truncated }
    return text[offset]
  }

  private mutating func take(_ byte: UInt8, in text: Span<UInt8>) throws(JSONError) {
    guard try peek(in: text) == byte else { throw .unexpectedByte(offset: offset) }
    offset += 1
  }

  private mutating func word(_ word: StaticString, in text: Span<UInt8>) throws(JSONError) {
    for byte in word.description.utf8 { try take(byte, in: text) }
  }

  private mutating func members(in text: Span<UInt8>, depth: Int) throws(JSONError) -> [JSON.Member] {
    var members: [JSON.Member] = []
    try list(until: UInt8(ascii: "}"), in: text, depth: depth) { (reader, text) throws(JSONError) in
      guard try reader.peek(in: text) == quote else { throw .unexpectedByte(offset: reader.offset) }
      let name = try reader.string(in: text)
      reader.skipBlanks(in: text)
      try reader.take(UInt8(ascii: ":"), in: text)
      members.append(JSON.Member(name: name, value: try reader.value(in: text, depth: depth)))
    }
    return members
  }

  private mutating func elements(in text: Span<UInt8>, depth: Int) throws(JSONError) -> [JSON] {
    var elements: [JSON] = []
    try list(until: UInt8(ascii: "]"), in: text, depth: depth) { (reader, text) throws(JSONError) in
      elements.append(try reader.value(in: text, depth: depth))
    }
    return elements
  }

  /// Reads what stands between two brackets, the cursor being on the opening one.
  private mutating func list(
    until end: UInt8, in text: Span<UInt8>, depth: Int,
    item: (inout Self, Span<UInt8>) throws(JSONError) -> Void
  ) throws(JSONError) {
    guard depth <= maximumDepth else { throw .tooDeep(limit: maximumDepth) }
    offset += 1
    skipBlanks(in: text)
    if try peek(in: text) == end {
      offset += 1
      return
    }
    while true {
      skipBlanks(in: text)
      try item(&self, text)
      skipBlanks(in: text)
      if try peek(in: text) == end {
        offset += 1
        return
      }
      try take(UInt8(ascii: ","), in: text)
    }
  }

  private mutating func string(in text: Span<UInt8>) throws(JSONError) -> String {
    let start = offset
    var bytes: [UInt8] = []
    offset += 1
    while true {
      let byte = try peek(in: text)
      offset += 1
      switch byte {
      case quote:
        guard let string = String(validating: bytes, as: UTF8.self) else { throw .invalidUTF8(offset: start) }
        return string
      case backslash: bytes.append(contentsOf: Character(try escape(in: text)).utf8)
      case 0x00..<0x20: throw .unexpectedByte(offset: offset - 1)
      default: bytes.append(byte)
      }
    }
  }

  /// Reads what follows a backslash.
  private mutating func escape(in text: Span<UInt8>) throws(JSONError) -> Unicode.Scalar {
    let byte = try peek(in: text)
    offset += 1
    switch byte {
    case quote, backslash, UInt8(ascii: "/"): return Unicode.Scalar(byte)
    case UInt8(ascii: "b"): return "\u{8}"
    case UInt8(ascii: "f"): return "\u{C}"
    case UInt8(ascii: "n"): return "\n"
    case UInt8(ascii: "r"): return "\r"
    case UInt8(ascii: "t"): return "\t"
    case UInt8(ascii: "u"): return try unicodeEscape(in: text)
    default: throw .unexpectedByte(offset: offset - 1)
    }
  }

  private mutating func unicodeEscape(in text: Span<UInt8>) throws(JSONError) -> Unicode.Scalar {
    let unit = try codeUnit(in: text)
    if let scalar = Unicode.Scalar(unit) { return scalar }
    // Only the first half of a pair can be completed, and only by an escaped second half.
    guard UTF16.isLeadSurrogate(unit), text.count - offset >= 2, text[offset] == backslash,
      text[offset + 1] == UInt8(ascii: "u")
    else { return replacement }
    let afterFirst = offset
    offset += 2
    let second = try codeUnit(in: text)
    guard UTF16.isTrailSurrogate(second) else {
      offset = afterFirst
      return replacement
    }
    let value = 0x10000 + ((UInt32(unit) & 0x3FF) &<< 10) + (UInt32(second) & 0x3FF)
    return Unicode.Scalar(value) ?? replacement
  }

  /// Reads the four hex digits of one UTF-16 code unit.
  private mutating func codeUnit(in text: Span<UInt8>) throws(JSONError) -> UInt16 {
    var unit: UInt16 = 0
    for _ in 0..<4 {
      guard let value = Hex.value(of: try peek(in: text), letters: .anyCase) else {
        throw .unexpectedByte(offset: offset)
      }
      unit = unit &<< 4 | UInt16(value)
      offset += 1
    }
    return unit
  }

  private mutating func number(in text: Span<UInt8>) throws(JSONError) -> JSON {
    let start = offset
    if try peek(in: text) == UInt8(ascii: "-") { offset += 1 }
    if try peek(in: text) == UInt8(ascii: "0") { offset += 1 } else { try digits(in: text) }
    var isInteger = true
    if offset < text.count, text[offset] == UInt8(ascii: ".") {
      isInteger = false
      offset += 1
      try digits(in: text)
    }
    if offset < text.count, text[offset] | 0x20 == UInt8(ascii: "e") {
      isInteger = false
      offset += 1
      let sign = try peek(in: text)
      if sign == UInt8(ascii: "+") || sign == UInt8(ascii: "-") { offset += 1 }
      try digits(in: text)
    }
    let literal = ascii(text.extracting(start..<offset))
    if isInteger, let integer = Int(literal) { return .int(integer) }
    guard let double = Double(literal) else { throw .unexpectedByte(offset: start) }
    return .double(double)
  }

  /// Moves behind one digit or more.
  private mutating func digits(in text: Span<UInt8>) throws(JSONError) {
    guard isDigit(try peek(in: text)) else { throw .unexpectedByte(offset: offset) }
    while offset < text.count, isDigit(text[offset]) { offset += 1 }
  }

  private func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }

  private func ascii(_ bytes: Span<UInt8>) -> String {
    var string = ""
    for index in bytes.indices { string.unicodeScalars.append(Unicode.Scalar(bytes[index])) }
    return string
  }
}

private let replacement: Unicode.Scalar = "\u{FFFD}"
