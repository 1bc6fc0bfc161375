import REST

/// A request's head as the network needs it: what the dialect gets, and what is the connection's own.
struct NetworkHead: Sendable {
  var request: RequestHead
  /// Whether another request may follow on the connection.
  var keepsAlive: Bool
  /// Whether the client waits for leave to send its body.
  var expectsContinue: Bool
  /// The value of `Authorization`, which no dialect sees.
  var authorization: String?
}

/// What is answered to bytes that are no request; the connection ends with the answer.
struct BadRequest: Error, Equatable {
  let status: Int
  let reason: String

  init(_ status: Int, _ reason: String) { (self.status, self.reason) = (status, reason) }
}

/// Finds and reads heads of requests in what a client has sent so far. Source of the rules: RFC 9112.
///
/// As strict as it says wherever two servers in a row could see different requests: lines end in CRLF and nothing else,
/// no folding, no blanks before colons, one `Content-Length` of digits only, one `Host`, and no `Transfer-Encoding` at all.
struct RequestParser {
  /// Where the line begins that is being looked for the end of, and how far that was.
  private var lineStart = 0
  private var scanned = 0
  private var lines: [Range<Int>] = []

  /// A head in `bytes` from `start` on, and where its body begins; nil if there is more to come. Called again with more
  /// bytes behind the same ones it goes on where it was.
  mutating func parse(_ bytes: [UInt8], from start: Int) throws(BadRequest) -> (NetworkHead, bodyStart: Int)?
  {
    if lines.isEmpty && scanned < start { (lineStart, scanned) = (start, start) }
    while let end = Self.index(of: UInt8(ascii: "\n"), in: bytes, from: scanned) {
      guard end > lineStart, bytes[end - 1] == UInt8(ascii: "\r") else {
        throw BadRequest(400, "a line ends without CR")
      }
      let line = lineStart..<end - 1
      (lineStart, scanned) = (end + 1, end + 1)
      if line.isEmpty {
        // One empty line before a request is forgiven, as RFC 9112, 2.2 asks for.
        if lines.isEmpty && line.lowerBound == start { continue }
        guard !lines.isEmpty else { throw BadRequest(400, "the request line is empty") }
        let head = try Self.head(bytes, lines)
        let bodyStart = end + 1
        self = RequestParser()
        return (head, bodyStart)
      }
      if lines.isEmpty { try Self.checkLength(ofRequestLine: line.count) }
      lines.append(line)
      guard lines.count <= NetworkLimits.fields + 1 else {
        throw BadRequest(431, "more than \(NetworkLimits.fields) header fields")
      }
      try Self.checkLength(ofHead: end + 1 - start)
    }
    scanned = bytes.count
    if lines.isEmpty { try Self.checkLength(ofRequestLine: bytes.count - lineStart) }
    try Self.checkLength(ofHead: bytes.count - start)
    return nil
  }

  /// Forgets what it has seen, as the bytes are about to move.
  mutating func restart() { self = RequestParser() }

  private static func checkLength(ofRequestLine length: Int) throws(BadRequest) {
    guard length <= NetworkLimits.requestLine else { throw BadRequest(414, "the request line is too long") }
  }

  private static func checkLength(ofHead length: Int) throws(BadRequest) {
    guard length <= NetworkLimits.head else { throw BadRequest(431, "the header is too large") }
  }

  private static func index(of byte: UInt8, in bytes: [UInt8], from start: Int) -> Int? {
    let span = bytes.span
    var index = start
    while index < span.count {
      if span[index] == byte { return index }
      index += 1
    }
    return nil
  }

  // MARK: Lines

  private static func head(_ bytes: [UInt8], _ lines: [Range<Int>]) throws(BadRequest) -> NetworkHead {
    let (method, target, isOld) = try requestLine(bytes[lines[0]])
    let mark = target.utf8.firstIndex { $0 == UInt8(ascii: "?") || $0 == UInt8(ascii: "#") }
    let path = String(target[..<(mark ?? target.endIndex)])
    var query = ""
    if let mark, target.utf8[mark] == UInt8(ascii: "?") {
      query = String(target[target.utf8.index(after: mark)...].prefix { $0 != "#" })
    }
    var head = NetworkHead(
      request: RequestHead(method: method, path: path, query: query), keepsAlive: !isOld,
      expectsContinue: false)
    head.request.fields.reserveCapacity(lines.count - 1)
    var framing = Framing()
    for line in lines.dropFirst() {
      let (name, value) = try field(bytes[line])
      switch name {
      case "authorization":
        guard head.authorization == nil else { throw BadRequest(400, "Authorization is given twice") }
        head.authorization = value
        continue
      case "connection":
        for option in value.split(separator: ",") {
          switch option.trimmed.lowercased() {
          case "close": framing.closes = true
          case "keep-alive": framing.keepsAlive = true
          default: break
          }
        }
      case "expect":
        guard value.lowercased() == "100-continue" else { throw BadRequest(417, "this cannot be expected") }
        head.expectsContinue = !isOld
      default: try framing.note(name, value)
      }
      head.request.fields.append((name, value))
    }
    try framing.check(isOld: isOld)
    head.request.contentLength = framing.length ?? 0
    if head.request.contentLength == 0 { head.expectsContinue = false }
    head.keepsAlive = !framing.closes && (!isOld || framing.keepsAlive)
    return head
  }

  /// What the fields say of where the body ends.
  private struct Framing {
    var length: Int?
    var isTransferEncoded = false
    var hosts = 0
    var closes = false
    var keepsAlive = false

    mutating func note(_ name: String, _ value: String) throws(BadRequest) {
      switch name {
      case "content-length":
        guard length == nil else { throw BadRequest(400, "Content-Length is given twice") }
        // Digits only: Swift's own parser takes a sign.
        guard (1...18).contains(value.utf8.count), value.utf8.allSatisfy({ (48...57).contains($0) }),
          let number = Int(value)
        else { throw BadRequest(400, "Content-Length is no number") }
        length = number
      case "transfer-encoding": isTransferEncoded = true
      case "host":
        hosts += 1
        guard hosts == 1 else { throw BadRequest(400, "Host is given twice") }
      default: break
      }
    }

    func check(isOld: Bool) throws(BadRequest) {
      guard isOld || hosts == 1 else { throw BadRequest(400, "Host is missing") }
      guard isTransferEncoded else { return }
      guard length == nil, !isOld else { throw BadRequest(400, "Transfer-Encoding does not belong here") }
      // An upload of unknown length could not be told from one that was cut short by a proxy.
      throw BadRequest(411, "the length of the body has to be given")
    }
  }

  private static func requestLine(_ line: ArraySlice<UInt8>) throws(BadRequest)
    -> (RequestHead.Method, target: Substring, isOld: Bool)
  {
    let parts = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
    guard parts.count == 3, !parts[0].isEmpty, parts[0].allSatisfy(isTokenByte), parts[0].count <= 32 else {
      throw BadRequest(400, "the request line is none")
    }
    let version = Array(parts[2])
    guard version.count == 8, version.starts(with: "HTTP/".utf8), version[6] == UInt8(ascii: "."),
      (48...57).contains(version[5]), (48...57).contains(version[7])
    else { throw BadRequest(400, "the request line is none") }
    guard version[5] == UInt8(ascii: "1") else { throw BadRequest(505, "only HTTP/1.1 is spoken here") }
    guard parts[1].allSatisfy({ $0 > 0x20 && $0 < 0x7f }), !parts[1].isEmpty else {
      throw BadRequest(400, "the target is none")
    }
    let method: RequestHead.Method =
      switch String(decoding: parts[0], as: UTF8.self) {
      case "GET": .get
      case "HEAD": .head
      case "POST": .post
      case "DELETE": .delete
      case let other: .other(other)
      }
    let target = try originForm(Substring(decoding: parts[1], as: UTF8.self), method)
    return (method, target, version[7] == UInt8(ascii: "0"))
  }

  /// The target from its path on; clients of proxies send a whole URL.
  private static func originForm(_ target: Substring, _ method: RequestHead.Method) throws(BadRequest)
    -> Substring
  {
    if target.utf8.first == UInt8(ascii: "/") { return target }
    for scheme in ["http://", "https://"] where target.lowercased().hasPrefix(scheme) {
      let rest = target.dropFirst(scheme.count)
      return rest.firstIndex(of: "/").map { rest[$0...] } ?? "/"
    }
    // `OPTIONS *` and `CONNECT host:port`, whose methods are answered alike wherever they point.
    if case .other = method { return "/" }
    throw BadRequest(400, "the target is none")
  }

  private static func field(_ line: ArraySlice<UInt8>) throws(BadRequest) -> (name: String, value: String) {
    guard let colon = line.firstIndex(of: UInt8(ascii: ":")), colon > line.startIndex,
      line[..<colon].allSatisfy(isTokenByte)
    else { throw BadRequest(400, "a header field is none") }
    var value = line[(colon + 1)...]
    while let first = value.first, first == 0x20 || first == 0x09 { value.removeFirst() }
    while let last = value.last, last == 0x20 || last == 0x09 { value.removeLast() }
    guard value.allSatisfy({ $0 >= 0x20 && $0 != 0x7f || $0 == 0x09 }) else {
      throw BadRequest(400, "a header field has a control character")
    }
    let name = line[..<colon].map { (65...90).contains($0) ? $0 | 0x20 : $0 }
    return (String(decoding: name, as: UTF8.self), String(decoding: value, as: UTF8.self))
  }

  /// Whether a byte may be part of a method or a field's name.
  static func isTokenByte(_ byte: UInt8) -> Bool {
    switch byte {
    case 0x30...0x39, 0x41...0x5a, 0x61...0x7a: true
    case UInt8(ascii: "!"), UInt8(ascii: "#"), UInt8(ascii: "$"), UInt8(ascii: "%"), UInt8(ascii: "&"),
      UInt8(ascii: "'"), UInt8(ascii: "*"), UInt8(ascii: "+"), UInt8(ascii: "-"), UInt8(ascii: "."),
      UInt8(ascii: "^"), UInt8(ascii: "_"), UInt8(ascii: "`"), UInt8(ascii: "|"), UInt8(ascii: "~"):
      true
    default: false
    }
  }
}

extension StringProtocol {
  /// Without blanks and tabs at both ends.
  var trimmed: SubSequence {
    var rest = self[...]
    while let first = rest.first, first == " " || first == "\t" { rest = rest.dropFirst() }
    while let last = rest.last, last == " " || last == "\t" { rest = rest.dropLast() }
    return rest
  }
}
