public import BorgFormat
import Disk
import SystemPackage

/// What the store is to those that address it by paths: directories too.
extension PosixStore {
  public func entry(_ path: StorePath) throws(ServeError) -> StoreEntry? {
    try Self.missingBelowObjects { () throws(ServeError) in
      try ServeError.doing("look at", path.text) { () throws(Errno) in
        // Published since, if it is not in its staging area.
        if let staged = staged(path), let status = try? staged.upload.open().status() {
          return StoreEntry(path.name, status)
        }
        let status = try path.isRoot ? root.status() : root.status(path.text)
        return status.map { StoreEntry(path.name, $0) }
      }
    }
  }

  public func entries(in directory: StorePath) throws(ServeError) -> [StoreEntry]? {
    if directory.holdsStaged { try barrier(durable: false) }
    return try ServeError.doing("list", directory.text) { () throws(Errno) in
      let opened: Directory
      do throws(Errno) {
        opened = try root.directory(directory.isRoot ? "." : directory.text)
      } catch .noSuchFileOrDirectory {
        return nil
      }
      let names = try opened.entries().filter { (try? StorePath(parsing: $0)) != nil }
      guard names.count <= Limits.listPage else { throw .argListTooLong }
      var found: [StoreEntry] = []
      found.reserveCapacity(names.count)
      for name in names.sorted(by: { $0.utf8.lexicographicallyPrecedes($1.utf8) }) {
        // Gone since, or a dangling link: not there. Nor is what is neither an object nor a directory.
        guard let status = try opened.status(name), status.kind != .other else { continue }
        found.append(StoreEntry(name, status))
      }
      return found
    }
  }

  public func makeDirectory(_ path: StorePath) throws(ServeError) {
    guard !path.isRoot else { return }
    try throwFailure()
    // Nothing that is staged may be in its way.
    if path.parent.holdsStaged { try barrier(durable: false) }
    try ServeError.doing("create", path.text) { () throws(Errno) in
      if try root.makeDirectories(path.text).isEmpty {
        guard try root.status(path.text)?.kind == .directory else { throw .fileExists }
        return
      }
      noteUnsynced(path.parent.text)
    }
  }

  public func removeDirectory(_ path: StorePath) throws(ServeError) -> Bool {
    guard !path.isRoot else { throw .system(SystemFailure("remove", "the root", .resourceBusy)) }
    try throwFailure()
    if path.holdsStaged { try barrier(durable: false) }
    let found = try ServeError.doing("remove", path.text) { () throws(Errno) in
      do throws(Errno) {
        do throws(Errno) {
          try root.removeDirectory(path.text)
        } catch .directoryNotEmpty where path.area.isEmpty {
          // Perhaps only what this session stages in.
          guard try root.directory(path.text).entries() == [RepositoryLayout.stagingDirectory] else {
            throw .directoryNotEmpty
          }
          releaseArea(path.text)
          try root.removeDirectory(path.text)
        }
        return true
      } catch .noSuchFileOrDirectory {
        return false
      }
    }
    if found {
      noteUnsynced(path.parent.text)
      // A new one of that name is another directory.
      state.withLock {
        $0.anchored = $0.anchored.filter { $0 != path.text && !$0.hasPrefix(path.text + "/") }
      }
    }
    return found
  }

  /// Gives the staging area in a directory at the top up; an upload that is under way there fails.
  private func releaseArea(_ top: String) {
    let area = state.withLock { state in
      defer { state.areas[top] = nil }
      return state.areas[top]
    }
    _ = try? area?.remove()
  }
}

extension StorePath {
  /// Whether staged objects may be directly in this directory, or below.
  fileprivate var holdsStaged: Bool {
    ["", "data", "packs"].contains(area.isEmpty ? text : area)
  }
}

extension StoreEntry {
  fileprivate init(_ name: String, _ status: FileStatus) {
    self.init(
      name: name, size: status.size, isDirectory: status.kind == .directory,
      modified: status.modifiedNanoseconds, accessed: status.accessedNanoseconds)
  }
}
