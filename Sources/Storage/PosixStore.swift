public import BorgFormat
public import Disk
import SystemPackage

/// A repository's store in a directory of a POSIX file system, laid out as borgstore's `posixfs` does.
///
/// Objects of `data/` and `packs/` are staged and published in batches: flushed, renamed to their names, their
/// directories synced. Until then this store finds them in a table, and nobody else sees them. All other
/// objects are published one by one and are durable when `store` returns, after everything stored before.
///
/// Why batches: syncing each of many small files costs some 200 µs each, one `syncfs` for all of them a few
/// microseconds each. Why renames only after the flush: the other way round, a power cut leaves names with
/// no bytes behind them, and an index rebuilt from names would believe in them.
public final class PosixStore: ObjectStore, PathStore {
  public struct Options: Sendable {
    /// Directory levels below `data/`, 0 to 31.
    public var dataLevels = 2
    /// Whether full batches are published by threads of their own while new objects are staged.
    public var publishesInBackground = true

    public init() {}
  }

  public let label: String
  public var dataLevels: Int { options.dataLevels }
  let root: Directory
  let options: Options
  let location: RepositoryLocation?
  let state: Monitor<State>
  /// Whether one `syncfs` reliably covers what lies on the root's own file system.
  let rootSyncsWhole: Bool

  struct State {
    /// Whether one `syncfs` covers everything: false where the file system does not do it reliably, or once
    /// a namespace turns out to lie on another file system than the root.
    var syncsWhole: Bool
    /// By the directories at the top; that in the root has an empty name.
    var areas: [String: StagingArea] = [:]
    /// Objects that are stored but not published; of several versions the newest.
    var pending: [StorePath: Staged] = [:]
    /// How often something was staged, and how many of those a durable barrier has settled.
    var staged = 0
    var settled = 0
    /// What is being filled, and what is on its way to be published, oldest first.
    var filling = Batch()
    var sealed: [Batch] = []
    /// How many of the sealed batches somebody is publishing.
    var claimed = 0
    var publishers: [WorkerThread] = []
    var isClosing = false
    /// Directories below the root whose entries changed since they were last synced.
    var unsynced: Set<String> = []
    /// Directories whose own names are durable, as far as this session has seen to it: a crashed or a
    /// living session may have made others and not synced their parents.
    var anchored: Set<String> = [""]
    /// Whether so much changed that one `syncfs` is to cover it, and names are not noted any more.
    var needsWholeSync = false
    /// Whether this session has seen to what others wrote before it.
    var hasSyncedOthers = false
    var isSyncing = false
    /// Whether a `syncfs` is under way.
    var isSyncingWhole = false
    var failure: ServeError?
  }

  struct Staged {
    let upload: StagedUpload
    let size: Int
    let batch: Int
    /// Whether an older version of the object waits in a sealed batch.
    let shadowsSealed: Bool
  }

  struct Batch {
    struct Entry {
      let path: StorePath
      let upload: StagedUpload
      /// Whether its bytes were synced by themselves when it was staged.
      let isSynced: Bool
      /// Whether it gives way to an object that has its name by the time it is published.
      let keepsOther: Bool
    }

    var number = 0
    var entries: [Entry] = []
    var bytes = 0
    var since: ContinuousClock.Instant?
  }

  /// Opens the store in `root` and removes what crashed sessions left in it. `location` is where `destroy`
  /// removes the directory itself.
  public init(
    root: Directory, label: String, options: Options = Options(), location: RepositoryLocation? = nil
  ) {
    self.root = root
    self.location = location
    self.label = label
    self.options = options
    rootSyncsWhole = (try? root.facts().syncsWhole) ?? false
    state = Monitor(State(syncsWhole: rootSyncsWhole && Self.isWhole(root)))
    for top in Self.knownTops { _ = StagingArea.sweep(root: root, top: top) }
  }

  /// Directories at the top in which a session of any dialect stages; others are swept when one stages there again.
  private static let knownTops = Namespace.allCases.map(\.rawValue) + ["packs", "index", ""]

  /// Whether one `syncfs` of the root reliably covers all namespaces: none of them is a link or a mount that
  /// leads to another file system.
  private static func isWhole(_ root: Directory) -> Bool {
    guard let device = try? root.status().device else { return false }
    return knownTops.allSatisfy { top in
      guard let status = try? root.status(top) else { return true }
      return status.device == device
    }
  }

  // MARK: Reading

  public func info(_ name: StoreName) throws(ServeError) -> Int? {
    let path = path(name)
    if let staged = staged(path) { return staged.size }
    return try ServeError.doing("look at", path.text) { () throws(Errno) in try root.status(path.text)?.size }
  }

  public func open(_ name: StoreName) throws(ServeError) -> (any StoredObject)? { try object(path(name)) }

  public func open(_ path: StorePath) throws(ServeError) -> (any StoredObject)? {
    try Self.missingBelowObjects { () throws(ServeError) in try object(path) }
  }

  /// What the body gives, or nil if a component of its path is an object: below one there is nothing.
  static func missingBelowObjects<Found>(_ body: () throws(ServeError) -> Found?) throws(ServeError) -> Found?
  {
    do {
      return try body()
    } catch {
      guard case .system(let failure) = error, failure.code == Errno.notDirectory.rawValue else {
        throw error
      }
      return nil
    }
  }

  private func object(_ path: StorePath) throws(ServeError) -> (any StoredObject)? {
    try ServeError.doing("open", path.text) { () throws(Errno) in
      guard let file = try openFile(path) else { return nil }
      return StoredFile(file: file, size: try file.size(), name: path.text)
    }
  }

  private func openFile(_ path: StorePath) throws(Errno) -> OpenFile? {
    if let staged = staged(path) {
      do {
        return try staged.upload.open()
      } catch .noSuchFileOrDirectory {
        // Published since the look into the table: it stands under its name.
      }
    }
    do {
      return try root.file(path.isRoot ? "." : path.text)
    } catch .noSuchFileOrDirectory {
      return nil
    }
  }

  func staged(_ path: StorePath) -> Staged? {
    guard path.durability == .staged else { return nil }
    return state.withLock { $0.pending[path] }
  }

  // MARK: Writing

  public func upload() throws(ServeError) -> any Upload {
    try newUpload(in: Namespace.data.rawValue, label: "a large value")
  }

  public func upload(for path: StorePath) throws(ServeError) -> any Upload {
    try newUpload(in: top(for: path), label: path.text)
  }

  public func store(_ name: StoreName, _ content: ObjectContent, keepsOther: Bool) throws(ServeError) {
    guard name.namespace != .data || !name.isDeleted else {
      throw .argumentValue("an object cannot be stored as deleted")
    }
    try store(path(name), content, in: name.namespace.rawValue, keepsOther: keepsOther)
  }

  public func store(_ path: StorePath, _ content: ObjectContent, keepsOther: Bool) throws(ServeError) {
    guard !path.isRoot else { throw .system(SystemFailure("store", "the root", .isDirectory)) }
    guard path.durability == .staged else {
      return try store(path, content, in: top(for: path), keepsOther: keepsOther)
    }
    try requireRoom(for: path)
    try store(path, content, in: top(for: path), keepsOther: keepsOther)
    // Clients of this dialect outlive their server: they start another one, repeat the one request that failed, and go on to
    // store what names the objects that the dead one had acknowledged. Those that store at once share the barrier.
    try barrier(durable: true)
  }

  private func store(
    _ path: StorePath, _ content: ObjectContent, in top: String, keepsOther: Bool
  ) throws(ServeError) {
    switch path.durability {
    case .fleeting:
      let upload = try staged(content, for: path, in: top)
      // A lock need not outlive the machine; but after a power cut one without this sync would stand there
      // empty, and stock Borg cannot open a repository with such a lock. Its directory is not synced.
      do {
        _ = try upload.finish(sync: true)
        try publish(upload, as: path.text)
      } catch {
        upload.abandon()
        throw error
      }
    case .staged:
      try throwFailure()
      try stage(path, content, in: top, keepsOther: keepsOther)
    case .immediate:
      try throwFailure()
      let upload = try staged(content, for: path, in: top)
      do {
        noteOthersWrites()
        try barrier(durable: true)
        _ = try upload.finish(sync: true)
        try publish(upload, as: path.text)
      } catch {
        upload.abandon()
        throw error
      }
      try syncDirectories()
    }
  }

  /// Throws where an object cannot get its name later: a directory stands there, or an object above.
  private func requireRoom(for path: StorePath) throws(ServeError) {
    try ServeError.doing("store", path.text) { () throws(Errno) in
      if let status = try root.status(path.text), status.kind == .directory { throw .isDirectory }
    }
  }

  public func adopt(_ name: StoreName) throws(ServeError) -> Bool { try adopt(path(name)) }

  public func adopt(_ path: StorePath) throws(ServeError) -> Bool {
    // What this session has staged is durable before it has a name.
    if staged(path) != nil { return true }
    return try ServeError.doing("make durable", path.text) { () throws(Errno) in try adoptFile(path.text) }
  }

  private func stage(_ path: StorePath, _ content: ObjectContent, in top: String, keepsOther: Bool)
    throws(ServeError)
  {
    let upload = try staged(content, for: path, in: top)
    // Where one `syncfs` is not enough, the descriptor that wrote is the one that learns of every failure.
    let isSynced = !state.withLock { $0.syncsWhole }
    let size = try upload.finish(sync: isSynced)
    let (replaced, isFull) = state.withLock { state in
      let old = state.pending[path]
      let isInSameBatch = old.map { $0.batch == state.filling.number } ?? false
      if let old, isInSameBatch { state.filling.remove(old) }
      state.pending[path] = Staged(
        upload: upload, size: size, batch: state.filling.number,
        shadowsSealed: old.map { !isInSameBatch || $0.shadowsSealed } ?? false)
      state.filling.append(
        .init(path: path, upload: upload, isSynced: isSynced, keepsOther: keepsOther), size)
      state.staged += 1
      return (isInSameBatch ? old?.upload : nil, state.filling.isFull)
    }
    replaced?.abandon()
    if isFull {
      seal()
      try waitForRoom()
    }
  }

  func staged(_ content: ObjectContent, for path: StorePath, in top: String) throws(ServeError)
    -> StagedUpload
  {
    switch content {
    case .upload(let upload as StagedUpload): return upload
    case .upload: throw .unsupported("This upload belongs to another store.")
    case .bytes(let bytes, let range):
      let upload = try newUpload(in: top, label: path.text)
      upload.append(bytes, range)
      return upload
    }
  }

  private func newUpload(in top: String, label: String) throws(ServeError) -> StagedUpload {
    let area = try area(top)
    do {
      return try StagedUpload(in: area, label: label)
    } catch {
      // Where directories cannot be locked, an area that nothing came to for a day is taken for a crash's.
      guard case .system(let failure) = error, failure.code == Errno.noSuchFileOrDirectory.rawValue else {
        throw error
      }
      state.withLock { if $0.areas[top] === area { $0.areas[top] = nil } }
      return try StagedUpload(in: self.area(top), label: label)
    }
  }

  // MARK: Removing and renaming

  public func delete(_ name: StoreName) throws(ServeError) -> Bool {
    let path = path(name)
    guard path.durability == .staged else { return try removeFile(path) }
    try throwFailure()
    let wasStaged = try unstage(path)
    return try removeFile(path) || wasStaged
  }

  public func remove(_ path: StorePath) throws(ServeError) -> Bool {
    // What it is replaced by must not be lost with it: a pack is deleted as soon as another one holds what is left of it.
    if path.durability != .fleeting, state.withLock({ $0.staged != $0.settled }) {
      try barrier(durable: true)
    }
    return try Self.missingBelowObjects { () throws(ServeError) in try removeFile(path) } ?? false
  }

  private func removeFile(_ path: StorePath) throws(ServeError) -> Bool {
    if path.durability != .fleeting { try throwFailure() }
    let found = try ServeError.doing("delete", path.text) { () throws(Errno) in
      try root.remove(path.isRoot ? "." : path.text)
    }
    if found, path.durability == .immediate {
      noteUnsynced(path.parent.text)
      try syncDirectories()
    }
    return found
  }

  /// Takes an object back that is stored but not published; false if there is none.
  private func unstage(_ path: StorePath) throws(ServeError) -> Bool {
    let (upload, isBeingPublished): (StagedUpload?, Bool) = state.withLock { state in
      guard let staged = state.pending[path] else { return (nil, false) }
      guard staged.batch == state.filling.number, !staged.shadowsSealed else { return (nil, true) }
      state.pending[path] = nil
      state.filling.remove(staged)
      return (staged.upload, false)
    }
    // Every version of it is then under the name, where the caller removes it.
    if isBeingPublished { try barrier(durable: false) }
    upload?.abandon()
    return upload != nil
  }

  public func move(_ name: StoreName, to newName: StoreName) throws(ServeError) -> Bool {
    try move(path(name), to: path(newName))
  }

  public func move(_ path: StorePath, to newPath: StorePath) throws(ServeError) -> Bool {
    try barrier(durable: true)
    guard let entry = try entry(path) else { return false }
    let found = try ServeError.doing("rename", path.text) { () throws(Errno) in
      guard !entry.isDirectory else { throw .isDirectory }
      do throws(Errno) {
        try rename(path.text, in: root, to: newPath.text)
        return true
      } catch .noSuchFileOrDirectory {
        return false
      }
    }
    guard found else { return false }
    noteUnsynced(path.parent.text)
    try syncDirectories()
    return true
  }

  // MARK: Ends

  public func availableSpace() -> UInt64? {
    try? root.facts().available
  }

  public func close() throws(ServeError) {
    defer { release() }
    try barrier(durable: true)
  }

  public func destroy() throws(ServeError) -> [String] {
    state.update { state in
      state.filling = Batch(number: state.filling.number + 1)
      state.sealed = Array(state.sealed.prefix(state.claimed))
    }
    release()
    return try ServeError.doing("destroy", label) { () throws(Errno) in
      var foreign: [String] = []
      // The readme goes first, durably: from then on this is no repository, so that nothing half-removed is
      // ever taken for one. The locks go last, to keep others out for as long as there is something.
      if try root.remove(RepositoryLayout.readmeName.nested(dataLevels: 0)) {
        try root.sync(Namespace.config.rawValue)
      }
      let order: [Namespace] = [.config, .archives, .keys, .cache, .data, .locks]
      for namespace in order {
        do throws(Errno) {
          try root.removeTree(namespace.rawValue)
        } catch .notDirectory {
          try root.remove(namespace.rawValue)  // a link to a directory, now empty
        } catch .resourceBusy {
          // A mount point, which stays as an empty directory.
        } catch .directoryNotEmpty {
          foreign.append(namespace.rawValue)  // with names in it that no Borg can have made
        }
      }
      for entry in try root.entries() {
        guard !foreign.contains(entry), Namespace(rawValue: entry) == nil else { continue }
        if RepositoryLayout.ownEntries.contains(entry) {
          _ = try root.remove(entry)
        } else {
          foreign.append(entry)
        }
      }
      // A directory that cannot be removed itself, such as a mount point, is as good as gone when empty.
      if foreign.isEmpty { _ = try? location?.remove() }
      return foreign.sorted()
    }
  }

  /// Ends the publishers and removes the staging areas.
  private func release() {
    let publishers = state.update { state in
      state.isClosing = true
      return state.publishers
    }
    for publisher in publishers { publisher.join() }
    let areas = state.withLock { state in
      defer { state.areas = [:] }
      return state.areas
    }
    for area in areas.values { _ = try? area.remove() }
  }

  // MARK: Parts

  private func path(_ name: StoreName) -> StorePath { StorePath(name, dataLevels: options.dataLevels) }

  func throwFailure() throws(ServeError) {
    if let failure = state.withLock({ $0.failure }) { throw failure }
  }

  /// Where an object of any name is staged: below the directory at the top that its path begins with, so that it stays on one
  /// file system, or in the root as long as that directory is missing.
  private func top(for path: StorePath) throws(ServeError) -> String {
    let top = path.area
    if top.isEmpty || state.withLock({ $0.areas[top] != nil }) { return top }
    let status = try ServeError.doing("look at", top) { () throws(Errno) in try root.status(top) }
    return status?.kind == .directory ? top : ""
  }

  private func area(_ top: String) throws(ServeError) -> StagingArea {
    if let area = state.withLock({ $0.areas[top] }) { return area }
    if !Self.knownTops.contains(top) { _ = StagingArea.sweep(root: root, top: top) }
    let (area, isElsewhere) = try ServeError.doing("create", top) { () throws(Errno) in
      let area = try StagingArea(root: root, top: top)
      return (area, try area.directory.status().device != root.status().device)
    }
    // Two workers may come here at once; the second one's area is given up.
    let winner = state.withLock { state in
      if isElsewhere { state.syncsWhole = false }
      if let other = state.areas[top] { return other }
      state.areas[top] = area
      return area
    }
    if winner !== area { _ = try? area.remove() }
    return winner
  }
}

extension PosixStore.Batch {
  var isFull: Bool { entries.count >= Limits.stagedObjects || bytes >= Limits.stagedBytes }

  mutating func append(_ entry: Entry, _ size: Int) {
    entries.append(entry)
    bytes += size
    if since == nil { since = .now }
  }

  mutating func remove(_ staged: PosixStore.Staged) {
    entries.removeAll { $0.upload === staged.upload }
    bytes -= staged.size
  }
}
