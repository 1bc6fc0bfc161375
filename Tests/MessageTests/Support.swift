import BorgFormat
import Testing

extension Recorded {
  /// The columns of a table's lines; `-` is an empty one.
  static func rows(_ table: String) -> [[String]] {
    table.split(separator: "\n").map { line in
      line.split(separator: " ").map { $0 == "-" ? "" : String($0) }
    }
  }
}

extension [UInt8] {
  /// The bytes of hex digits, blanks between them left out.
  init(_ hex: String) throws {
    self = try #require(Hex.decode(hex.filter { $0 != " " }))
  }
}

// `#expect` and `#require` cannot look into calls that take a span, so the tests call these.

/// The first value's head, and where it ends.
func head(of bytes: [UInt8], elements: Int = Limits.requestElements) throws(MessagePackError)
  -> (head: MessagePackHead, end: Int)
{
  var reader = MessagePackReader(elements: elements)
  let head = try reader.head(in: bytes.span)
  return (head, reader.offset)
}

/// Where the first value ends.
func end(of bytes: [UInt8], elements: Int = Limits.requestElements, depth: Int = Limits.requestDepth)
  throws(MessagePackError) -> Int
{
  var reader = MessagePackReader(elements: elements)
  let range = try reader.skip(in: bytes.span, depth: depth)
  return range.upperBound
}

func written(_ body: (inout MessagePackWriter) -> Void) -> [UInt8] {
  var writer = MessagePackWriter()
  body(&writer)
  return writer.bytes
}
