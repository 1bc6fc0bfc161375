import BorgFormat

/// What a client may do where, decided where its request enters: a pure function of the mode that the
/// administrator chose.
///
/// The letters are borgstore's, the table is the original's, and two refusals look different here: storing
/// an object again that is there whole, and reading data that may not be read. Source: borg 2.0.0b18
/// `repository.py` `Repository.__init__`, borgstore 0.3 `backends/posixfs.py`.
enum Policy {
  /// What a mode grants at a place.
  struct Grants: OptionSet, Hashable, Sendable {
    let rawValue: UInt8

    static let list = Self(rawValue: 1 << 0)
    static let read = Self(rawValue: 1 << 1)
    /// Store under a new name only.
    static let create = Self(rawValue: 1 << 2)
    /// Store under any name.
    static let overwrite = Self(rawValue: 1 << 3)
    static let delete = Self(rawValue: 1 << 4)
  }

  /// What a request does to an object, or to the repository as a whole. A move deletes and stores.
  enum Operation: CaseIterable, Sendable {
    case list, read, store, delete
  }

  /// Where it does it: storing at the root is making a repository, deleting there is destroying one.
  enum Place: Hashable, Sendable {
    case root
    case namespace(Namespace)

    static let all = [root] + Namespace.allCases.map(namespace)
  }

  enum Decision: Hashable, Sendable {
    case granted
    /// Answer success and store nothing, if the object that is there is whole; else replace it.
    case keepsWhole
    /// Answer as if there were no such object: stock clients that may not read go on then, and end if they
    /// are told the truth.
    case answersMissing
    case denied
  }

  /// Decides on one operation; `exists` says whether the object to be stored is there already, and counts
  /// for nothing else.
  static func decide(_ mode: Permissions, _ operation: Operation, at place: Place, exists: Bool = false)
    -> Decision
  {
    guard let grants = grants(of: mode, at: place) else { return .granted }
    let sufficient: Grants =
      switch operation {
      case .list: .list
      case .read: .read
      case .store: exists ? .overwrite : [.create, .overwrite]
      case .delete: .delete
      }
    if !grants.isDisjoint(with: sufficient) { return .granted }
    switch (operation, place) {
    case (.store, .namespace(.data)) where grants.contains(.create): return .keepsWhole
    case (.read, .namespace(.data)): return .answersMissing
    default: return .denied
    }
  }

  /// What a mode grants; nil for everything.
  private static func grants(of mode: Permissions, at place: Place) -> Grants? {
    switch (mode, place) {
    case (.all, _): nil
    // Nobody gets past these without the locks and the chunk indexes.
    case (_, .namespace(.locks)): [.list, .read, .create, .delete]
    case (.noDelete, .namespace(.cache)), (.writeOnly, .namespace(.cache)):
      [.list, .read, .create, .overwrite, .delete]
    case (.noDelete, .namespace(.config)), (.writeOnly, .namespace(.config)): [.list, .read, .overwrite]
    case (.noDelete, .namespace(.archives)), (.noDelete, .namespace(.data)): [.list, .read, .create]
    case (.writeOnly, .namespace(.archives)), (.writeOnly, .namespace(.data)): [.list, .create]
    case (.noDelete, .namespace(.keys)), (.writeOnly, .namespace(.keys)): [.list, .read]
    case (.readOnly, .namespace): [.list, .read]
    case (.noDelete, .root), (.readOnly, .root): [.list, .read]
    case (.writeOnly, .root): .list
    }
  }
}
