/// The top-level directories of a repository of version 3.
public enum Namespace: String, CaseIterable, Sendable {
  case archives, cache, config, data, keys, locks

  /// Directory levels between the namespace and its objects; `data` objects are spread over `dataLevels`.
  public func levels(dataLevels: Int) -> Int {
    self == .data ? dataLevels : 0
  }
}

/// The name of an object in a repository's store: a namespace, a key, and whether it is soft-deleted.
///
/// Keys of `data/` are object ids, nothing else: the original takes any key there and then fails to `list`
/// or `check` the repository. Source of the name rules: borgstore 0.3 and 0.4 `backends/_base.py`,
/// `validate_name`; control characters and empty or `.` components are refused in addition.
public struct StoreName: Hashable, Sendable {
  public enum Key: Hashable, Sendable {
    case id(ObjectID)
    case text(String)
  }

  public let namespace: Namespace
  public let key: Key
  /// Soft-deleted objects carry the suffix `.del` on disk.
  public let isDeleted: Bool

  /// The repository object with this id.
  public init(id: ObjectID) {
    self.init(.data, .id(id), isDeleted: false)
  }

  /// A name that the program itself uses and knows to be valid.
  public init(_ namespace: Namespace, _ key: StaticString) {
    self.init(namespace, .text(key.description), isDeleted: false)
  }

  private init(_ namespace: Namespace, _ key: Key, isDeleted: Bool) {
    self.namespace = namespace
    self.key = key
    self.isDeleted = isDeleted
  }

  /// Parses a client's un-nested `namespace/key`.
  ///
  /// Throws `namespaceUnknown` where the original raises `KeyError`, `argumentValue` where it raises
  /// `ValueError`, in its order: the namespace is looked at first.
  public init(parsing name: String, isDeleted: Bool = false) throws(ServeError) {
    guard let slash = name.utf8.firstIndex(of: UInt8(ascii: "/")),
      let namespace = Namespace(rawValue: String(name[..<slash]))
    else { throw .namespaceUnknown("no matching namespace found for: \(name.shortened)") }
    try Self.validate(name, suffixLength: isDeleted ? Self.deletedSuffix.utf8.count : 0)
    let key = String(name[name.index(after: slash)...])
    // Any component: below a hidden directory nothing is ever listed, and a session's leftovers are swept.
    let isReserved = key.split(separator: "/").contains { Self.isHidden(String($0)) }
    guard !isReserved else { throw .argumentValue("name has a reserved ending: \(name.shortened)") }
    guard namespace == .data else {
      self.init(namespace, .text(key), isDeleted: isDeleted)
      return
    }
    guard let id = ObjectID(hex: key) else {
      throw .argumentValue("name in data/ must be the 64 hex digits of an id: \(name.shortened)")
    }
    self.init(namespace, .id(id), isDeleted: isDeleted)
  }

  /// The same object under its soft-deleted name. Throws `argumentValue` if that is too long.
  public func softDeleted() throws(ServeError) -> StoreName {
    try Self.validate(text, suffixLength: Self.deletedSuffix.utf8.count)
    return StoreName(namespace, key, isDeleted: true)
  }

  /// The same object under its living name.
  public var living: StoreName { StoreName(namespace, key, isDeleted: false) }

  /// The ending of soft-deleted objects on disk.
  public static let deletedSuffix = ".del"

  /// The ending of what is not yet, or never, an object; the original never lists such entries.
  public static let temporarySuffix = ".tmp"

  /// Name below the store's root: `namespace/ab/cd/abcd…`, with the suffix of a soft-deleted object.
  public func nested(dataLevels: Int) -> String {
    var name: [UInt8] = []
    name.reserveCapacity(96)
    name.append(contentsOf: namespace.rawValue.utf8)
    name.append(UInt8(ascii: "/"))
    switch key {
    case .text(let text): name.append(contentsOf: text.utf8)
    case .id(let id):
      for level in 0..<dataLevels {
        Hex.append(id.byte(level), to: &name)
        name.append(UInt8(ascii: "/"))
      }
      id.appendHex(to: &name)
    }
    if isDeleted { name.append(contentsOf: Self.deletedSuffix.utf8) }
    return String(decoding: name, as: UTF8.self)
  }

  /// The un-nested `namespace/key`, without a soft-deleted object's suffix.
  public var text: String {
    switch key {
    case .id(let id): namespace.rawValue + "/" + id.hex
    case .text(let text): namespace.rawValue + "/" + text
    }
  }

  /// Whether a directory entry is none of the store's objects: a temporary or hidden name.
  public static func isHidden(_ entry: String) -> Bool {
    entry.hasSuffix(temporarySuffix) || entry.hasSuffix(".hid")
  }

  /// Checks a name or directory by the store's rules; `""` is the root and valid.
  public static func validate(_ name: String, suffixLength: Int = 0) throws(ServeError) {
    let bytes = Array(name.utf8)
    guard bytes.count + suffixLength <= Limits.nameLength else {
      throw .argumentValue("name is too long (max: \(Limits.nameLength)): \(name.shortened)")
    }
    guard bytes.allSatisfy({ $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "\\") }) else {
      throw .argumentValue("name must be printable ASCII without blanks or backslashes: \(name.shortened)")
    }
    guard !bytes.contains(where: { (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0) }) else {
      throw .argumentValue("name must be lowercase, but got: \(name.shortened)")
    }
    guard !name.isEmpty else { return }
    let components = bytes.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
    let dot = UInt8(ascii: ".")
    guard components.allSatisfy({ !$0.isEmpty && !$0.elementsEqual([dot]) }),
      !zip(bytes, bytes.dropFirst()).contains(where: { $0 == dot && $1 == dot })
    else { throw .argumentValue("name must be relative and not contain '..': \(name.shortened)") }
  }
}

extension String {
  /// The text cut to 120 characters, control characters replaced, for an error that echoes a client's words.
  public var shortened: String {
    let visible = unicodeScalars.prefix(120).map { scalar in
      scalar.value < 0x20 || (0x7f...0x9f).contains(scalar.value) ? "\u{FFFD}" : String(scalar)
    }
    return visible.joined() + (unicodeScalars.dropFirst(120).isEmpty ? "" : "…")
  }
}
