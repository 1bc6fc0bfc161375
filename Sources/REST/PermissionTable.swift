public import BorgFormat

/// What a client may do below which directory, by borgstore's letters.
///
/// Source: borgstore 0.7.0 `backends/posixfs.py`, `_check_permission`.
public struct PermissionTable: Equatable, Sendable {
  /// What may be done at a place.
  public struct Letters: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8

    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// `l`: names and sizes.
    public static let list = Self(rawValue: 1 << 0)
    /// `r`: contents.
    public static let read = Self(rawValue: 1 << 1)
    /// `w`: store under a new name.
    public static let create = Self(rawValue: 1 << 2)
    /// `W`: store under any name.
    public static let overwrite = Self(rawValue: 1 << 3)
    /// `D`: delete, and move away.
    public static let delete = Self(rawValue: 1 << 4)

    /// Reads letters in any order; nil if one is unknown.
    public init?(_ text: String) {
      self = []
      for letter in text {
        switch letter {
        case "l": insert(.list)
        case "r": insert(.read)
        case "w": insert(.create)
        case "W": insert(.overwrite)
        case "D": insert(.delete)
        default: return nil
        }
      }
    }

    static let all: Self = [.list, .read, .create, .overwrite, .delete]
  }

  /// By the name of a directory or an object; `""` is for all that no other one is for.
  private let entries: [String: Letters]

  /// An empty table admits everything.
  public init(_ entries: [String: Letters] = [:]) { self.entries = entries }

  /// Takes a table as `borgstore-server-rest --permissions` does: an object of names and letters; `null` for everything.
  /// Throws `argumentValue`.
  public init(_ json: JSON) throws(ServeError) {
    switch json {
    case .null: self.init()
    case .object(let members):
      var entries: [String: Letters] = [:]
      for member in members {
        guard case .string(let text) = member.value, let letters = Letters(text) else {
          throw .argumentValue("permissions for '\(member.name.shortened)' are not letters of lrwWD")
        }
        try StoreName.validate(member.name)
        entries[member.name] = letters
      }
      self.init(entries)
    default: throw .argumentValue("permissions are not an object of names and letters")
    }
  }

  /// What Borg's mode admits in repositories of formats 4 and 5.
  ///
  /// Source: borg 2.0.0b22 to b25 `repository.py`, `Repository.__init__`.
  public init(_ mode: Permissions) {
    let full = Letters.all
    let onlyAdded: Letters = mode == .writeOnly ? [.list, .create] : [.list, .read, .create]
    switch mode {
    case .all: self.init()
    case .noDelete, .writeOnly:
      self.init([
        "": mode == .writeOnly ? .list : [.list, .read],
        "archives": onlyAdded, "cache": full, "config": [.list, .read, .overwrite], "index": full,
        "keys": [.list, .read], "locks": [.list, .read, .create, .delete], "packs": onlyAdded,
      ])
    case .readOnly:
      self.init(["": [.list, .read], "locks": [.list, .read, .create, .delete]])
    }
  }

  /// Whether nothing is denied.
  var admitsEverything: Bool { entries.isEmpty }

  /// What is admitted at a name: the entry for it, or for the nearest directory that has one, decides alone.
  func letters(at name: String) -> Letters {
    guard !entries.isEmpty else { return .all }
    var place = name
    while true {
      if let letters = entries[place] { return letters }
      if place.isEmpty { return [] }
      place = place.utf8.lastIndex(of: UInt8(ascii: "/")).map { String(place[..<$0]) } ?? ""
    }
  }
}
