/// The name of a repository below the server's root, as URLs and the configuration spell it: components separated by
/// slashes, `alice/laptop`.
///
/// Holding one is the proof that it cannot lead elsewhere: components are made of `A-Z a-z 0-9 . _ -`, do not begin with a
/// dot, and do not end as hidden files of a store do; nothing is ever percent-decoded.
public struct RepositoryName: Hashable, Comparable, Sendable, CustomStringConvertible {
  public let text: String

  /// Nil for what is no name.
  public init?(_ text: String) {
    let components = text.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
    guard (1...Self.depthLimit).contains(components.count), components.allSatisfy({ Self.isComponent($0) })
    else { return nil }
    self.text = text
  }

  /// Components in the longest name.
  static let depthLimit = 8
  /// Characters in the longest component.
  static let componentLimit = 64

  public var description: String { text }

  public static func < (left: RepositoryName, right: RepositoryName) -> Bool { left.text < right.text }

  /// Whether a part of a path may be one of a repository's name.
  static func isComponent(_ bytes: Substring.UTF8View) -> Bool {
    guard let first = bytes.first, first != UInt8(ascii: "."), bytes.count <= componentLimit else {
      return false
    }
    for byte in bytes {
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
        break
      default: return false
      }
    }
    return !hiddenEndings.contains { bytes.count >= 4 && bytes.suffix(4).elementsEqual($0) }
  }

  private static let hiddenEndings = [Array(".tmp".utf8), Array(".hid".utf8), Array(".del".utf8)]
}

/// Which repositories are granted: a name in which whole components may be `*`, for any one component.
///
/// There is no pattern for any depth: how many components of a path are the repository's name, and which are the object's,
/// has to follow from the configuration alone. See `overlap`.
public struct RepositoryPattern: Hashable, Sendable, CustomStringConvertible {
  /// Nil stands for `*`.
  let components: [String?]

  /// Nil for what is no pattern.
  public init?(_ text: String) {
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    guard (1...RepositoryName.depthLimit).contains(parts.count),
      parts.allSatisfy({ $0 == "*" || RepositoryName.isComponent($0.utf8) })
    else { return nil }
    components = parts.map { $0 == "*" ? nil : String($0) }
  }

  public var description: String { components.map { $0 ?? "*" }.joined(separator: "/") }

  /// The one name that it stands for, if there is no `*` in it.
  var name: RepositoryName? {
    let names = components.compactMap { $0 }
    return names.count == components.count ? RepositoryName(names.joined(separator: "/")) : nil
  }

  func matches(_ name: RepositoryName) -> Bool {
    let parts = name.text.split(separator: "/")
    return parts.count == components.count
      && zip(parts, components).allSatisfy { part, component in component.map { part == $0 } ?? true }
  }

  /// Whether a repository that one of two admits could lie inside one that the other admits. Such a pair is an error of the
  /// configuration: in a path it could not be told where the repository's name ends.
  func overlaps(_ other: RepositoryPattern) -> Bool {
    guard components.count != other.components.count else { return false }
    return zip(components, other.components).allSatisfy { $0 == nil || $1 == nil || $0 == $1 }
  }

  /// Splits a path, which begins with a slash, after as many components as the pattern has. Nil if they are not what it
  /// admits. The rest begins with a slash too, also where the path ends with the name.
  func split(_ path: String) -> (name: RepositoryName, rest: String)? {
    let bytes = path.utf8
    guard bytes.first == UInt8(ascii: "/") else { return nil }
    var end = bytes.startIndex
    for component in components {
      guard end != bytes.endIndex else { return nil }
      let start = bytes.index(after: end)
      end = bytes[start...].firstIndex(of: UInt8(ascii: "/")) ?? bytes.endIndex
      if let component, component != path[start..<end] { return nil }
    }
    guard let name = RepositoryName(String(path[bytes.index(after: bytes.startIndex)..<end])) else {
      return nil
    }
    return (name, end == bytes.endIndex ? "/" : String(path[end...]))
  }
}
