public import BorgFormat
public import Disk
public import Storage
import SystemPackage
import Synchronization

/// A directory as the place of a store, opened when it is first asked for and kept.
///
/// Of Borg's repositories those of formats 3 to 5 are stores; one of Borg 1.x can be looked at, so that clients find out what
/// it is, and nothing in it changed.
public final class DirectoryPlace: StorePlace {
  /// Which directories are stores.
  public enum Contents: Sendable {
    /// Every one that the administrator has granted.
    case anything
    /// Repositories, and what may become one: nobody has granted anything in particular, so the rest of the machine is not
    /// this client's to read or to remove.
    case repositories
  }

  private let location: RepositoryLocation
  /// What it is called in messages.
  private let label: String
  private let contents: Contents
  private let options: PosixStore.Options
  private let limit: UInt64?
  private let opened = Mutex<Opened?>(nil)

  private struct Opened {
    let root: Directory
    let store: any PathStore
    /// What is stored is held against, if anything.
    let metered: MeteredStore<PosixStore>?
  }

  /// `label` is what it is called in messages: the client's spelling. `limit` is how many bytes may be stored; directories
  /// above that are granted may keep limits of their own.
  public init(
    location: RepositoryLocation, label: String, contents: Contents,
    options: PosixStore.Options = PosixStore.Options(), limit: UInt64? = nil
  ) {
    (self.location, self.label, self.contents) = (location, label, contents)
    (self.options, self.limit) = (options, limit)
  }

  // MARK: The store

  public func store() throws(ServeError) -> any PathStore {
    if let current = opened.withLock({ $0 }) {
      // A directory that was removed has no name left; there may be a new one.
      if ((try? current.root.status().links) ?? 0) > 0 { return current.store }
      try? close()
    }
    let root = try directory()
    let kind = try ServeError.doing("look at", label) { () throws(Errno) in try RepositoryKind(of: root) }
    switch kind {
    case .foreign where contents == .repositories:
      throw .repositoryMissing("\(label) is not empty, and no Borg repository")
    case .borg1: return FrozenStore(store: store(in: root), label: label)
    case .borg2, .blank, .foreign: break
    }
    let new = try open(root)
    let winner = opened.withLock { opened in
      if let opened { return opened }
      opened = new
      return new
    }
    if winner.root !== new.root { try? new.store.close() }
    return winner.store
  }

  /// The store, counting what is stored if there is a limit, or if others count there.
  private func open(_ root: Directory) throws(ServeError) -> Opened {
    let store = store(in: root)
    do {
      let limits = try UsageLedger.limits(for: location, root: root, label: label, limit: limit)
      guard !limits.isEmpty else { return Opened(root: root, store: store, metered: nil) }
      let metered = MeteredStore(store, limits: limits)
      return Opened(root: root, store: metered, metered: metered)
    } catch {
      try? store.close()
      throw error
    }
  }

  private func store(in root: Directory) -> PosixStore {
    PosixStore(root: root, label: label, options: options, location: location)
  }

  private func directory() throws(ServeError) -> Directory {
    do {
      return try location.open()
    } catch {
      switch error {
      case .noSuchFileOrDirectory, .notDirectory: throw .repositoryMissing(label)
      case .improperLink, .tooManySymbolicLinkLevels: throw .pathNotAllowed(label)
      default: throw .system(SystemFailure("open", label, error))
      }
    }
  }

  public func tick() { opened.withLock { $0 }?.store.tick() }

  public func close() throws(ServeError) {
    let current = opened.withLock { opened in
      defer { opened = nil }
      return opened
    }
    try current?.store.close()
  }

  public func quota() throws(ServeError) -> (limit: UInt64, usage: UInt64)? {
    _ = try store()
    return try opened.withLock { $0 }?.metered?.quota()
  }

  // MARK: Its beginning and its end

  public func create() throws(ServeError) {
    do throws(Errno) {
      guard try !location.create() else { return }
      guard try location.open().visibleEntries().isEmpty else { throw .fileExists }
    } catch {
      switch error {
      case .fileExists, .notDirectory: throw .repositoryExists(label)
      case .improperLink: throw .pathNotAllowed(label)
      default: throw .system(SystemFailure("create", label, error))
      }
    }
  }

  public func destroy() throws(ServeError) {
    let root = try directory()
    let isRepository = try requireDestructible(root)
    // What is staged goes with it.
    try? close()
    defer { UsageLedger.recount(above: location, label: label) }
    try ServeError.doing("destroy", label) { () throws(Errno) in
      if isRepository { try root.removeRepository() } else { try root.removeEmptyTree() }
      do throws(Errno) {
        try location.remove()
      } catch .permissionDenied, .notPermitted, .resourceBusy, .readOnlyFileSystem {
        // A mount point, or what alone is granted: it stays, empty, as with the original.
      }
    }
  }

  /// Whether the directory is a repository, or else empty. Throws if it is neither, or if not all of it is a repository's.
  private func requireDestructible(_ root: Directory) throws(ServeError) -> Bool {
    let (kind, isEmpty) = try ServeError.doing("look at", label) { () throws(Errno) in
      (try RepositoryKind(of: root), try root.isEmptyTree())
    }
    switch kind {
    case .borg2(foreign: nil): return true
    case .borg2(let name?):
      throw .repositoryInvalid(
        "\(label) is not removed, since it holds what does not belong to the repository: \(name.shortened)")
    case .borg1: throw .repositoryVersion(label, 1)
    case .blank, .foreign:
      guard isEmpty else {
        throw .repositoryInvalid("\(label) is not removed, since it is no Borg repository")
      }
      return false
    }
  }
}

/// A store that can only be read, since it is another program's: a repository of Borg 1.x.
private struct FrozenStore: PathStore {
  let store: any PathStore
  let label: String

  private var refusal: ServeError { .repositoryVersion(label, 1) }

  func entry(_ path: StorePath) throws(ServeError) -> StoreEntry? { try store.entry(path) }
  func entries(in directory: StorePath) throws(ServeError) -> [StoreEntry]? {
    try store.entries(in: directory)
  }
  func open(_ path: StorePath) throws(ServeError) -> (any StoredObject)? { try store.open(path) }
  func upload(for path: StorePath) throws(ServeError) -> any Upload { throw refusal }
  func store(_ path: StorePath, _ content: ObjectContent, keepsOther: Bool) throws(ServeError) {
    throw refusal
  }
  func adopt(_ path: StorePath) throws(ServeError) -> Bool { throw refusal }
  func remove(_ path: StorePath) throws(ServeError) -> Bool { throw refusal }
  func move(_ path: StorePath, to newPath: StorePath) throws(ServeError) -> Bool { throw refusal }
  func makeDirectory(_ path: StorePath) throws(ServeError) { throw refusal }
  func removeDirectory(_ path: StorePath) throws(ServeError) -> Bool { throw refusal }
  func barrier(durable: Bool) {}
  func tick() {}
  func availableSpace() -> UInt64? { store.availableSpace() }
  func close() {}
}
