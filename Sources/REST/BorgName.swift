import BorgFormat
import ContentHash

/// What an object of a repository of formats 4 and 5 is, as far as its name tells.
///
/// Source: borg 2.0.0b22 to b25 `repository.py`, `cache.py`, `storelocking.py`, `archiver/repo_space_cmd.py`.
enum BorgName: Equatable {
  /// Of `packs`, `index`, `keys` and `locks`: named by the hash of its content.
  case hashed(ContentDigest)
  /// The entry of an archive, which is empty.
  case archive
  /// What makes the repository what it is, and never changes.
  case identity
  /// Other settings, and fillers.
  case setting
  case cache

  /// Nil for a name that Borg does not use for an object.
  init?(_ path: StorePath) {
    let name = path.name
    switch path.parent.text {
    case "archives" where Self.isHash(name): self = .archive
    case "index", "keys", "locks":
      guard let digest = ContentDigest(hex: name) else { return nil }
      self = .hashed(digest)
    case "config":
      switch name {
      case "readme", "version", "id", "config": self = .identity
      case "manifest", "defaults": self = .setting
      case _ where Self.isNumbered(name, after: RepositoryLayout.spaceReservePrefix): self = .setting
      default: return nil
      }
    case "cache":
      let reference = "referenced-by-archive."
      let isKnown =
        ["chunkindex-invalid", "checked-packs"].contains(name)
        || name.hasPrefix(reference) && Self.isHash(String(name.dropFirst(reference.count)))
      guard isKnown else { return nil }
      self = .cache
    case let parent where path.area == "packs":
      guard let digest = ContentDigest(hex: name), parent == "packs/\(name.prefix(2))" else { return nil }
      self = .hashed(digest)
    default: return nil
    }
  }

  /// Whether Borg makes a directory of this name.
  static func isDirectory(_ path: StorePath) -> Bool {
    if path.isRoot || directories.contains(path.text) { return true }
    let digits = path.name.utf8
    return path.parent.text == "packs" && digits.count == 2
      && digits.allSatisfy { Hex.value(of: $0, letters: .lowerCase) != nil }
  }

  /// Whether this is a soft deletion of an archive, or takes one back.
  static func isSoftDeletion(_ path: StorePath, to newPath: StorePath) -> Bool {
    let suffix = StoreName.deletedSuffix
    let (short, long) = path.text.utf8.count < newPath.text.utf8.count ? (path, newPath) : (newPath, path)
    return BorgName(short) == .archive && long.text == short.text + suffix
  }

  /// Top-level directories of formats 4 and 5.
  static let directories: Set<String> = ["archives", "cache", "config", "index", "keys", "locks", "packs"]

  private static func isHash(_ name: String) -> Bool { ContentDigest(hex: name) != nil }

  private static func isNumbered(_ name: String, after prefix: String) -> Bool {
    guard name.hasPrefix(prefix) else { return false }
    let number = name.utf8.dropFirst(prefix.utf8.count)
    return (1...9).contains(number.count) && number.allSatisfy { (0x30...0x39).contains($0) }
  }
}
