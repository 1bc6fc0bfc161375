import BorgFormat

/// Why a stream of requests cannot be read any further: what the peer is told, after which the connection ends, since where
/// the next request begins is not certain any more.
struct HeadFault: Error, Equatable {
  let status: Int
  let text: String

  init(_ status: Int, _ text: String) { (self.status, self.text) = (status, text) }
}

/// Finds a request's head in what has arrived and reads it, strictly: wherever two readers might disagree on where a body
/// ends, it is refused.
///
/// Source: RFC 9112. Lines may end in LF alone; a field's value is not continued on another line; `Content-Length` is
/// digits, once or the same again; there is no `Transfer-Encoding`, which no client of ours uses.
struct HeadReader {
  private let start: Int
  private var scanned: Int
  private var lineStart: Int
  private var lines: [Range<Int>] = []

  /// The head begins at `start`.
  init(from start: Int) { (self.start, scanned, lineStart) = (start, start, start) }

  /// The head, and where the body begins; nil if it has not arrived as a whole. The block may only grow between calls.
  mutating func next(in block: [UInt8]) throws(HeadFault) -> (head: RequestHead, end: Int)? {
    while scanned < block.count {
      guard block[scanned] == 0x0A else {
        scanned += 1
        try checkLimits()
        continue
      }
      var line = lineStart..<scanned
      if let last = line.last, block[last] == 0x0D { line.removeLast() }
      scanned += 1
      lineStart = scanned
      if !line.isEmpty {
        lines.append(line)
        guard lines.count <= Limits.restFields + 1 else {
          throw HeadFault(431, "more than \(Limits.restFields) fields")
        }
      } else if !lines.isEmpty {
        return (try Self.head(lines, in: block), scanned)
      }
      // Else an empty line in front of a request, which clients may send.
    }
    return nil
  }

  private func checkLimits() throws(HeadFault) {
    if scanned - lineStart > Limits.restLine {
      throw lines.isEmpty
        ? HeadFault(414, "the request line is too long") : HeadFault(431, "a field is too long")
    }
    if scanned - start > Limits.restHead { throw HeadFault(431, "the header is too long") }
  }

  private static func head(_ lines: [Range<Int>], in block: [UInt8]) throws(HeadFault) -> RequestHead {
    for line in lines where block[line].contains(0x0D) { throw HeadFault(400, "a line has a CR in it") }
    let words = block[lines[0]].split(separator: 0x20, omittingEmptySubsequences: false)
    guard words.count == 3, !words[0].isEmpty, words[0].allSatisfy(isToken), !words[1].isEmpty else {
      throw HeadFault(400, "the request line is not METHOD TARGET VERSION")
    }
    let version = words[2]
    guard version.starts(with: "HTTP/".utf8) else {
      throw HeadFault(400, "the request line names no version")
    }
    guard version.elementsEqual("HTTP/1.1".utf8) || version.elementsEqual("HTTP/1.0".utf8) else {
      throw HeadFault(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    }
    let fields = try lines.dropFirst().map { line throws(HeadFault) in try field(block[line]) }
    return RequestHead(
      method: method(text(words[0])), target: text(words[1]), fields: fields,
      contentLength: try contentLength(fields))
  }

  private static func method(_ name: String) -> RequestHead.Method {
    switch name {
    case "GET": .get
    case "HEAD": .head
    case "POST": .post
    case "DELETE": .delete
    default: .other(name)
    }
  }

  private static func field(_ line: ArraySlice<UInt8>) throws(HeadFault) -> (name: String, value: String) {
    guard let colon = line.firstIndex(of: UInt8(ascii: ":")), colon > line.startIndex,
      line[..<colon].allSatisfy(isToken)
    else { throw HeadFault(400, "a field is not NAME: VALUE") }
    let isBlank = { (byte: UInt8) in byte == 0x20 || byte == 0x09 }
    let value = line[(colon + 1)...].drop(while: isBlank)
    let length = (value.lastIndex { !isBlank($0) } ?? value.startIndex - 1) + 1 - value.startIndex
    guard value.allSatisfy({ $0 >= 0x20 && $0 != 0x7F || $0 == 0x09 }) else {
      throw HeadFault(400, "a field's value has control characters in it")
    }
    let name = line[..<colon].map { (0x41...0x5A).contains($0) ? $0 | 0x20 : $0 }
    return (text(name[...]), text(value.prefix(length)))
  }

  /// Bytes of the body; the one thing that has to be beyond doubt.
  static func contentLength(_ fields: [(name: String, value: String)]) throws(HeadFault) -> Int {
    guard !fields.contains(where: { $0.name == "transfer-encoding" }) else {
      throw HeadFault(501, "bodies have to come with a Content-Length, not with a Transfer-Encoding")
    }
    let lengths = Set(fields.filter { $0.name == "content-length" }.map(\.value))
    guard let length = lengths.first else { return 0 }
    guard lengths.count == 1, !length.isEmpty, length.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
      let count = Int(length)
    else { throw HeadFault(400, "Content-Length is not one number") }
    return count
  }

  private static func text(_ bytes: ArraySlice<UInt8>) -> String { String(decoding: bytes, as: UTF8.self) }

  /// What names of methods and fields consist of.
  private static func isToken(_ byte: UInt8) -> Bool {
    switch byte {
    case 0x30...0x39, 0x41...0x5A, 0x61...0x7A: true
    default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
    }
  }
}
