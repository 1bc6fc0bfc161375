import BorgFormat

/// A part of an object as `gather` and `defrag` ask for it, by its full name.
struct SpanRequest: Equatable {
  let path: StorePath
  /// Negative: so many bytes before the object's end.
  let offset: Int
  let count: Int

  /// Reads `[[name, offset, size], …]`, one entry at a time, so that memory is that of the result.
  ///
  /// Source: borgstore 0.7.0 `backends/_utils.py`, `validate_sources`.
  static func list(parsing text: [UInt8]) throws(Refusal) -> [SpanRequest] {
    var spans: [SpanRequest] = []
    var elements = ElementScanner(text)
    while let range = try elements.next() {
      let json: JSON
      do {
        json = try JSON(parsing: text.span.extracting(range), maximumSize: longestEntry, maximumDepth: 1)
      } catch {
        throw Refusal(400, "an entry is not JSON, or not [name, offset, size]")
      }
      guard case .array(let values) = json, values.count == 3, case .string(let name) = values[0],
        case .int(let offset) = values[1], case .int(let count) = values[2], count >= 0
      else { throw Refusal(400, "an entry is not [name, offset, size]") }
      let path = try Refusal.naming { () throws(ServeError) in try StorePath(parsing: name) }
      guard !path.isRoot else { throw Refusal(400, "an entry has no name") }
      spans.append(SpanRequest(path: path, offset: offset, count: count))
    }
    return spans
  }

  /// Bytes of the text of one entry; an honest one has about 100.
  private static let longestEntry = 1024

  /// Where the bytes are in an object of some size. Throws unless all of them are there.
  func bytes(of size: Int) throws(Refusal) -> Range<Int> {
    let start = offset < 0 ? size + offset : offset
    guard start >= 0, start <= size, count <= size - start else {
      throw Refusal(416, "\(path.text) has \(size) bytes, asked for \(count) from \(offset) on")
    }
    return start..<start + count
  }
}

/// Finds the elements of a JSON array in its text, without looking at what they are.
private struct ElementScanner {
  private let text: [UInt8]
  private var offset = 0
  private var hasBegun = false

  init(_ text: [UInt8]) { self.text = text }

  private static let malformed = Refusal(400, "the body is not a JSON array")

  /// The range of the next element; nil behind the last one.
  mutating func next() throws(Refusal) -> Range<Int>? {
    if !hasBegun {
      guard take() == UInt8(ascii: "[") else { throw Self.malformed }
      hasBegun = true
      if peek() == UInt8(ascii: "]") { return try end() }
    } else {
      switch take() {
      case UInt8(ascii: ","): break
      case UInt8(ascii: "]"):
        offset -= 1
        return try end()
      default: throw Self.malformed
      }
    }
    _ = peek()
    let start = offset
    var depth = 0
    var isInString = false
    while offset < text.count {
      switch text[offset] {
      case UInt8(ascii: "\\") where isInString: offset += 1
      case UInt8(ascii: "\""): isInString.toggle()
      case _ where isInString: break
      case UInt8(ascii: "["), UInt8(ascii: "{"): depth += 1
      case UInt8(ascii: "]"), UInt8(ascii: "}"):
        if depth == 0 { return start..<offset }
        depth -= 1
      case UInt8(ascii: ","):
        if depth == 0 { return start..<offset }
      default: break
      }
      offset += 1
    }
    throw Self.malformed
  }

  /// Nothing but blanks may follow the array.
  private mutating func end() throws(Refusal) -> Range<Int>? {
    offset += 1
    guard peek() == nil else { throw Self.malformed }
    return nil
  }

  /// The next byte that is no blank.
  private mutating func peek() -> UInt8? {
    while offset < text.count, [0x20, 0x09, 0x0A, 0x0D].contains(text[offset]) { offset += 1 }
    return offset < text.count ? text[offset] : nil
  }

  private mutating func take() -> UInt8? {
    defer { offset += 1 }
    return peek()
  }
}
