import BorgFormat

/// How requests are addressed.
extension RequestHead {
  /// A request for a target as it stands in the request line: a path with what follows it, or a whole URL, as proxies
  /// send it. A fragment is dropped.
  public init(
    method: Method, target: String, fields: [(name: String, value: String)] = [], contentLength: Int = 0
  ) {
    var rest = Substring(target)
    for scheme in ["http://", "https://"] where rest.hasPrefix(scheme) {
      rest = rest.dropFirst(scheme.count)
      rest = rest[(rest.firstIndex { $0 == "/" || $0 == "?" || $0 == "#" } ?? rest.endIndex)...]
      break
    }
    rest = rest.prefix { $0 != "#" }
    let path = rest.prefix { $0 != "?" }
    self.init(
      method: method, path: String(path), query: String(rest.dropFirst(path.count + 1)), fields: fields,
      contentLength: contentLength)
  }

  /// The store's name for what is addressed: without slashes around it, which clients send. Empty for the root.
  var name: String {
    let bytes = Array(path.utf8)
    let slash = UInt8(ascii: "/")
    guard let first = bytes.firstIndex(where: { $0 != slash }),
      let last = bytes.lastIndex(where: { $0 != slash })
    else { return "" }
    return String(decoding: bytes[first...last], as: UTF8.self)
  }

  /// Whether a directory's entries are meant.
  var isDirectory: Bool { path.utf8.last == UInt8(ascii: "/") }

  /// The media type that names the protocol, and its version.
  static let protocolType = "application/vnd.x.borgstore.rest.v1"
}

/// The parameters of a query by the rules of forms.
///
/// Source: Python's `urllib.parse.parse_qs`, as borgstore uses it: the first value of a name counts, an empty one as none,
/// `+` is a blank, an escape that is none stands for itself, and what is no UTF-8 becomes U+FFFD.
struct Query {
  private let parameters: [(name: String, value: String)]

  init(_ text: String) {
    parameters = text.utf8.split(separator: UInt8(ascii: "&")).compactMap { parameter in
      guard let equals = parameter.firstIndex(of: UInt8(ascii: "=")) else { return nil }
      let value = parameter[parameter.index(after: equals)...]
      return value.isEmpty ? nil : (Self.decode(parameter[..<equals]), Self.decode(value))
    }
  }

  subscript(name: String) -> String? { parameters.first { $0.name == name }?.value }

  private static func decode(_ text: Substring.UTF8View) -> String {
    var bytes: [UInt8] = []
    var rest = text[...]
    while let byte = rest.popFirst() {
      switch byte {
      case UInt8(ascii: "+"): bytes.append(0x20)
      case UInt8(ascii: "%"):
        let digits = rest.prefix(2).compactMap { value(of: $0) }
        if digits.count == 2 {
          bytes.append(digits[0] << 4 | digits[1])
          rest = rest.dropFirst(2)
        } else {
          bytes.append(byte)
        }
      default: bytes.append(byte)
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  private static func value(of digit: UInt8) -> UInt8? { Hex.value(of: digit, letters: .anyCase) }
}
