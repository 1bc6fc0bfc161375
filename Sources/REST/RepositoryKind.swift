import BorgFormat
import Disk
import SystemPackage

/// What a directory is, as far as its names tell.
enum RepositoryKind: Equatable {
  /// A repository of formats 3 to 5; and a name at its top that is not Borg's, if there is one.
  case borg2(foreign: String?)
  /// A repository of Borg 1.x.
  case borg1
  /// Nothing but directories of Borg's, and what it stores before it has written what makes a repository.
  case blank
  case foreign

  /// Names at the top of a repository; a leftover of the original's quota is among them.
  static let ownEntries = BorgName.directories.union(RepositoryLayout.ownEntries)

  init(of root: Directory) throws(Errno) {
    let config = try root.status("config")?.kind
    if config == .file, try root.status("data")?.kind == .directory {
      self = .borg1
      return
    }
    let foreign = try root.visibleEntries().sorted().first { !Self.ownEntries.contains($0) }
    if config == .directory, try root.hasIdentity() {
      self = .borg2(foreign: foreign)
    } else {
      let isBlank = foreign == nil ? try root.isBlank() : false
      self = isBlank ? .blank : .foreign
    }
  }
}

extension Directory {
  /// The entries without our own staging area, which a killed session may have left.
  func visibleEntries() throws(Errno) -> [String] {
    try entries().filter { $0 != RepositoryLayout.stagingDirectory }
  }

  /// Whether there is what clients know a repository of formats 3 to 5 by: the readme, version and id, or the config.
  fileprivate func hasIdentity() throws(Errno) -> Bool {
    for names in [["readme"], ["config"], ["version", "id"]] {
      var isComplete = true
      for name in names where try status("config/\(name)")?.kind != .file { isComplete = false }
      if isComplete { return true }
    }
    return false
  }

  /// Whether no file is here but keys, locks and settings of Borg's.
  fileprivate func isBlank() throws(Errno) -> Bool {
    try holdsOnly { path in
      switch (path.area, BorgName(path)) {
      case ("keys", .hashed), ("locks", .hashed), (_, .identity), (_, .setting): true
      default: false
      }
    }
  }

  /// Whether no file is here at all.
  func isEmptyTree() throws(Errno) -> Bool { try holdsOnly { _ in false } }

  /// Whether every file here or below is one of these; deeper than Borg nests there is none.
  private func holdsOnly(_ prefix: String = "", depth: Int = 0, _ isExpected: (StorePath) -> Bool)
    throws(Errno)
    -> Bool
  {
    guard depth <= 8 else { return false }
    for entry in try visibleEntries() where !RepositoryLayout.hiddenEntries.contains(prefix + entry) {
      let name = prefix + entry
      switch try status(entry)?.kind {
      case nil: continue
      case .directory:
        guard try directory(entry).holdsOnly(name + "/", depth: depth + 1, isExpected) else { return false }
      case .file, .other:
        guard let path = try? StorePath(parsing: name), isExpected(path) else { return false }
      }
    }
    return true
  }

  // MARK: Removing

  /// Removes all that is Borg's: first, durably, what makes it a repository, so that nothing half-removed is ever taken for
  /// one; the locks last, to keep others out for as long as there is something.
  func removeRepository() throws(Errno) {
    var wasIdentified = false
    for name in ["readme", "config", "version", "id"] where try remove("config/\(name)") {
      wasIdentified = true
    }
    if wasIdentified { try sync("config") }
    let first = ["config", "archives", "keys", "index", "cache", "packs", "data"]
    for name in first + [RepositoryLayout.stagingDirectory, "locks"] {
      do throws(Errno) {
        try removeTree(name)
      } catch .notDirectory {
        try remove(name)  // a link to a directory, now empty
      } catch .resourceBusy {
        // A mount point, which stays as an empty directory.
      }
    }
    for name in RepositoryLayout.hiddenEntries { try remove(name) }
  }

  /// Removes directories that are empty, down to the last one; throws `ENOTEMPTY` where one is not.
  func removeEmptyTree() throws(Errno) {
    for entry in try entries() {
      if entry == RepositoryLayout.stagingDirectory {
        try removeTree(entry)
      } else if RepositoryLayout.hiddenEntries.contains(entry), try status(entry)?.kind == .file {
        try remove(entry)
      } else {
        try directory(entry).removeEmptyTree()
        try removeDirectory(entry)
      }
    }
  }
}
