/// The name of an object or a directory in a store, as it stands on disk below the store's root: components separated by
/// slashes, `packs/ab/abcd…`. The root itself is empty.
///
/// Source of the rules: borgstore 0.5 to 0.7 `backends/_base.py`, `validate_name`. Stricter here: control characters, empty
/// components, `.`, and the endings of hidden names in any component are refused, since they alias other names or reach
/// into what is not the store's.
public struct StorePath: Hashable, Sendable {
  public let text: String

  /// The store's own directory.
  public static let root = StorePath(unchecked: "")

  /// Takes a client's name. Throws `argumentValue` for one that breaks a rule.
  public init(parsing text: String) throws(ServeError) {
    try StoreName.validate(text)
    guard !text.split(separator: "/").contains(where: { StoreName.isHidden(String($0)) }) else {
      throw .argumentValue("name has a reserved ending: \(text.shortened)")
    }
    self.text = text
  }

  /// Takes a name that is known to keep the rules.
  private init(unchecked text: String) { self.text = text }

  /// The place of an object that is addressed by its name in a namespace.
  public init(_ name: StoreName, dataLevels: Int) { text = name.nested(dataLevels: dataLevels) }

  public var isRoot: Bool { text.isEmpty }

  /// The directory that it stands in; the root's is the root.
  public var parent: StorePath {
    StorePath(unchecked: text.utf8.lastIndex(of: UInt8(ascii: "/")).map { String(text[..<$0]) } ?? "")
  }

  /// The first component of the directory that it stands in, by which everything below is treated alike; empty for what stands
  /// at the root.
  public var area: String {
    text.utf8.firstIndex(of: UInt8(ascii: "/")).map { String(text[..<$0]) } ?? ""
  }

  /// The last component.
  public var name: String {
    text.utf8.lastIndex(of: UInt8(ascii: "/")).map { String(text[text.utf8.index(after: $0)...]) } ?? text
  }

  /// How soon an object has to be on stable storage, which follows from what Borg keeps there.
  ///
  /// Only objects named by an id or a hash are staged: nobody makes a directory in the place of one of those.
  public var durability: Durability {
    switch area {
    case "data", "packs": isDigest ? .staged : .immediate
    case "locks": .fleeting
    default: .immediate
    }
  }

  /// Whether the last component is the 64 digits of an id or a hash.
  private var isDigest: Bool {
    text.utf8.count > 64 && name.utf8.count == 64 && name.utf8.allSatisfy { Hex.value(of: $0) != nil }
  }

  /// How soon an object has to be on stable storage.
  public enum Durability: Sendable {
    /// At the next barrier: what something else refers to later.
    case staged
    /// Never; but for others to see at once.
    case fleeting
    /// Before it is acknowledged, and after everything that was stored before.
    case immediate
  }
}
