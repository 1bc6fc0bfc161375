public import BorgFormat
public import Disk
import SystemPackage

/// A repository's store in a directory of a POSIX file system, laid out as borgstore's `posixfs` does.
///
/// Objects of `data/` are staged and published in batches: flushed, renamed to their names, their
/// directories synced. Until then this store finds them in a table, and nobody else sees them. All other
/// objects are published one by one and are durable when `store` returns, after everything stored before.
///
/// Why batches: syncing each of many small files costs some 200 µs each, one `syncfs` for all of them a few
/// microseconds each. Why renames only after the flush: the other way round, a power cut leaves names with
/// no bytes behind them, and an index rebuilt from names would believe in them.
public final class PosixStore: ObjectStore {
  public struct Options: Sendable {
    /// Directory levels below `data/`, 0 to 31.
    public var dataLevels = 2
    /// Whether full batches are published by a thread of their own while new objects are staged.
    public var publishesInBackground = true

    public init() {}
  }

  public let label: String
  let root: Directory
  let options: Options
  public var dataLevels: Int { options.dataLevels }
  private let location: RepositoryPath?
  private let syncsWhole: Bool
  private let state = Monitor(State())

  private struct State {
    var areas: [Namespace: StagingArea] = [:]
    /// Objects that are stored but not published, by id.
    var pending: [ObjectID: Staged] = [:]
    /// What is being filled, and what is on its way to be published, oldest first.
    var filling = Batch()
    var sealed: [Batch] = []
    var publisher: WorkerThread?
    var closing = false
    /// Directories below the root whose entries changed since they were last synced.
    var unsynced: Set<String> = []
    var failure: ServeError?
  }

  private struct Staged {
    let upload: StagedUpload
    let size: Int
    let batch: Int
  }

  private struct Batch {
    var number = 0
    var entries: [(id: ObjectID, upload: StagedUpload)] = []
    var bytes = 0
    var since: ContinuousClock.Instant?
  }

  /// Files, or directories, up to which syncing each beats one `syncfs`, which also has to wait for every
  /// other writer of the file system.
  private static let fewEnoughToSyncEach = 8

  /// Opens the store in `root` and removes what crashed sessions left in it. `location` is where `destroy`
  /// removes the directory itself.
  public init(
    root: Directory, label: String, options: Options = Options(), location: RepositoryPath? = nil
  ) {
    self.root = root
    self.location = location
    self.label = label
    self.options = options
    self.syncsWhole = (try? root.facts().syncsWhole) ?? false
    for namespace in Namespace.allCases where namespace != .locks {
      _ = StagingArea.sweep(root: root, namespace: namespace)
    }
  }

  // MARK: Reading

  public func info(_ name: StoreName) throws(ServeError) -> Int? {
    if case .id(let id) = name.key, !name.isDeleted,
      let staged = state.withLock({ $0.pending[id] })
    {
      return staged.size
    }
    let path = nested(name)
    return try ServeError.doing("look at", path) { () throws(Errno) in try root.status(path)?.size }
  }

  public func open(_ name: StoreName) throws(ServeError) -> (any StoredObject)? {
    let path = nested(name)
    return try ServeError.doing("open", path) { () throws(Errno) in
      guard let file = try openFile(name, path) else { return nil }
      return StoredFile(file: file, size: try file.size(), name: path)
    }
  }

  private func openFile(_ name: StoreName, _ path: String) throws(Errno) -> OpenFile? {
    if case .id(let id) = name.key, !name.isDeleted, let staged = state.withLock({ $0.pending[id] }) {
      do {
        return try staged.upload.area.directory.file(staged.upload.name)
      } catch .noSuchFileOrDirectory {
        // Published since the look into the table: it stands under its name.
      }
    }
    do {
      return try root.file(path)
    } catch .noSuchFileOrDirectory {
      return nil
    }
  }

  // MARK: Writing

  public func upload() throws(ServeError) -> any Upload {
    try StagedUpload(in: area(.data))
  }

  public func store(_ name: StoreName, _ content: ObjectContent) throws(ServeError) {
    try throwFailure()
    switch name.namespace {
    case .data: try stage(name, content)
    case .locks: try publishLock(nested(name), content)
    case .archives, .cache, .config, .keys:
      let upload = try staged(content, in: name.namespace)
      do {
        try barrier(durable: true)
      } catch {
        upload.abandon()
        throw error
      }
      _ = try upload.finish(sync: true)
      try publish(upload, as: nested(name))
      try syncDirectories()
    }
  }

  private func stage(_ name: StoreName, _ content: ObjectContent) throws(ServeError) {
    guard case .id(let id) = name.key, !name.isDeleted else {
      throw .argumentValue("an object cannot be stored as deleted")
    }
    let upload = try staged(content, in: .data)
    let size = try upload.finish(sync: false)
    let replaced: StagedUpload? = state.withLock { state in
      // An object of the same name that waits in an earlier batch is published first, then replaced.
      let old = state.pending[id].flatMap { $0.batch == state.filling.number ? $0.upload : nil }
      if old != nil { state.filling.entries.removeAll { $0.upload === old } }
      state.pending[id] = Staged(upload: upload, size: size, batch: state.filling.number)
      state.filling.entries.append((id, upload))
      state.filling.bytes += size
      if state.filling.since == nil { state.filling.since = .now }
      return old
    }
    replaced?.abandon()
    let isFull = state.withLock {
      $0.filling.entries.count >= Limits.stagedObjects || $0.filling.bytes >= Limits.stagedBytes
    }
    if isFull { try seal() }
  }

  private func staged(_ content: ObjectContent, in namespace: Namespace) throws(ServeError) -> StagedUpload {
    switch content {
    case .upload(let upload as StagedUpload): return upload
    case .upload: throw .unsupported("This upload belongs to another store.")
    case .bytes(let bytes, let range):
      let upload = try StagedUpload(in: area(namespace))
      upload.append(bytes, range)
      return upload
    }
  }

  /// Publishes a lock at once: other processes have to see it, and no crash may bring it back.
  private func publishLock(_ path: String, _ content: ObjectContent) throws(ServeError) {
    guard case .bytes(let bytes, let range) = content else {
      throw .unsupported("A lock does not arrive in pieces.")
    }
    // The original's own pattern, so that its tools recognise a crash's leftover.
    let digits = Array("abcdefghijklmnopqrstuvwxyz0123456789_".utf8)
    let random = String(decoding: Host.randomBytes(8).map { digits[Int($0) % digits.count] }, as: UTF8.self)
    let temporary = "\(Namespace.locks.rawValue)/tmp\(random)\(StoreName.temporarySuffix)"
    try ServeError.doing("write", path) { () throws(Errno) in
      let file: OpenFile
      do throws(Errno) {
        file = try root.create(temporary)
      } catch .noSuchFileOrDirectory {
        try root.makeDirectories(Namespace.locks.rawValue)
        file = try root.create(temporary)
      }
      do throws(Errno) {
        try file.write(bytes, range, at: 0)
        try rename(temporary, in: root, to: path)
      } catch {
        _ = try? root.remove(temporary)
        throw error
      }
    }
  }

  /// Gives a finished upload its name.
  private func publish(_ upload: StagedUpload, as path: String) throws(ServeError) {
    do {
      do {
        try rename(upload.name, in: upload.area.directory, to: path)
      } catch .improperLink {
        try copyAcross(upload, to: path)
      }
    } catch {
      upload.abandon()
      throw .system(SystemFailure("publish", path, error))
    }
  }

  /// Renames, makes missing parents on the way, and notes which directories are to be synced.
  private func rename(_ name: String, in directory: Directory, to path: String) throws(Errno) {
    var changed: [String] = [path.parentName ?? ""]
    do {
      try directory.rename(name, to: path, in: root)
    } catch .noSuchFileOrDirectory {
      guard let parent = path.parentName else { throw .noSuchFileOrDirectory }
      changed += try root.makeDirectories(parent).map { $0.parentName ?? "" }
      try directory.rename(name, to: path, in: root)
    }
    noteUnsynced(changed)
  }

  /// Publishes an upload whose name lies on another file system, where somebody linked a namespace to.
  private func copyAcross(_ upload: StagedUpload, to path: String) throws(Errno) {
    let parent = path.parentName.map { $0 + "/" } ?? ""
    let temporary = "\(parent)borg-serve-\(Hex.string(Host.randomBytes(8)))\(StoreName.temporarySuffix)"
    let source = try upload.area.directory.file(upload.name)
    let target = try root.create(temporary)
    do {
      var buffer = [UInt8](repeating: 0, count: Limits.readBlock)
      var offset = 0
      while true {
        let count = try source.read(at: offset, into: &buffer)
        if count == 0 { break }
        try target.write(buffer, 0..<count, at: offset)
        offset += count
      }
      try target.sync()
      try root.rename(temporary, to: path, in: root)
    } catch {
      _ = try? root.remove(temporary)
      throw error
    }
    upload.abandon()
  }

  // MARK: Removing and renaming

  public func delete(_ name: StoreName) throws(ServeError) -> Bool {
    try throwFailure()
    let path = nested(name)
    if case .id(let id) = name.key, !name.isDeleted {
      let wasStaged = try unstage(id)
      let wasPublished = try ServeError.doing("delete", path) { () throws(Errno) in try root.remove(path) }
      return wasStaged || wasPublished
    }
    let found = try ServeError.doing("delete", path) { () throws(Errno) in try root.remove(path) }
    if found, name.namespace != .locks {
      noteUnsynced([path.parentName ?? ""])
      try syncDirectories()
    }
    return found
  }

  /// Takes an object back that is stored but not published; false if there is none.
  private func unstage(_ id: ObjectID) throws(ServeError) -> Bool {
    let isSealed = state.withLock { state in
      state.pending[id].map { $0.batch != state.filling.number } ?? false
    }
    if isSealed { try barrier(durable: false) }
    let upload: StagedUpload? = state.withLock { state in
      guard let staged = state.pending.removeValue(forKey: id) else { return nil }
      state.filling.entries.removeAll { $0.upload === staged.upload }
      state.filling.bytes -= staged.size
      return staged.upload
    }
    upload?.abandon()
    return upload != nil
  }

  public func move(_ name: StoreName, to newName: StoreName) throws(ServeError) -> Bool {
    try barrier(durable: true)
    let (old, new) = (nested(name), nested(newName))
    let found = try ServeError.doing("rename", old) { () throws(Errno) in
      do throws(Errno) {
        try rename(old, in: root, to: new)
        return true
      } catch .noSuchFileOrDirectory {
        return false
      }
    }
    guard found else { return false }
    noteUnsynced([old.parentName ?? ""])
    try syncDirectories()
    return true
  }

  // MARK: Barriers

  public func barrier(durable: Bool) throws(ServeError) {
    try seal()
    let failure: ServeError? = state.wait { state -> ServeError?? in
      state.failure != nil || state.sealed.isEmpty ? .some(state.failure) : nil
    }
    if let failure { throw failure }
    if durable { try syncDirectories() }
  }

  public func tick() {
    let isDue = state.withLock { state in
      state.filling.since.map { ContinuousClock.now - $0 >= .seconds(Limits.stagedSeconds) } ?? false
    }
    // A failure stays noted; whoever stores next is told.
    if isDue { _ = try? seal() }
  }

  /// Hands the batch that is being filled over to be published.
  private func seal() throws(ServeError) {
    let needsThread = state.update { state in
      guard !state.filling.entries.isEmpty else { return false }
      state.sealed.append(state.filling)
      state.filling = Batch(number: state.filling.number + 1)
      return options.publishesInBackground && state.publisher == nil
    }
    if needsThread {
      let thread = WorkerThread { [self] in publishUntilClosed() }
      state.update { $0.publisher = thread }
    }
    if state.withLock({ $0.publisher == nil }) { publishSealed() }
    try throwFailure()
  }

  private func publishUntilClosed() {
    while true {
      let goesOn = state.wait { state in
        if !state.sealed.isEmpty && state.failure == nil { return true }
        return state.closing ? false : nil
      }
      guard goesOn else { return }
      publishSealed()
    }
  }

  private func publishSealed() {
    while let batch = state.withLock({ $0.failure == nil ? $0.sealed.first : nil }) {
      do {
        try publish(batch)
        state.update { state in
          state.sealed.removeFirst()
          for (id, upload) in batch.entries where state.pending[id]?.upload === upload {
            state.pending[id] = nil
          }
        }
      } catch {
        state.update { $0.failure = $0.failure ?? error }
      }
    }
  }

  private func publish(_ batch: Batch) throws(ServeError) {
    if syncsWhole && batch.entries.count > Self.fewEnoughToSyncEach {
      try ServeError.doing("make durable", "data") { () throws(Errno) in
        try root.syncFileSystem()
      }
    } else {
      for (id, upload) in batch.entries {
        try ServeError.doing("make durable", nested(StoreName(id: id))) { () throws(Errno) in
          try upload.area.directory.file(upload.name).sync()
        }
      }
    }
    for (id, upload) in batch.entries { try publish(upload, as: nested(StoreName(id: id))) }
  }

  /// Makes the entries of all changed directories durable.
  private func syncDirectories() throws(ServeError) {
    let directories = state.withLock { state in
      defer { state.unsynced = [] }
      return state.unsynced
    }
    do {
      if syncsWhole && directories.count > Self.fewEnoughToSyncEach {
        try ServeError.doing("make durable", "data") { () throws(Errno) in
          try root.syncFileSystem()
        }
      } else {
        for directory in directories.sorted() {
          try ServeError.doing("make durable", directory) { () throws(Errno) in try root.sync(directory) }
        }
      }
    } catch {
      // The kernel reports a failed write-back once and forgets it: nothing that follows can be trusted.
      state.update { $0.failure = $0.failure ?? error }
      throw error
    }
  }

  // MARK: Ends

  public func availableSpace() -> UInt64? {
    try? root.facts().available
  }

  public func close() throws(ServeError) {
    defer { release() }
    try barrier(durable: true)
  }

  private func release() {
    let publisher = state.update { state in
      state.closing = true
      return state.publisher
    }
    publisher?.join()
    let areas = state.withLock { state in
      defer { state.areas = [:] }
      return state.areas
    }
    for area in areas.values { _ = try? area.remove() }
  }

  public func destroy() throws(ServeError) -> [String] {
    release()
    return try ServeError.doing("destroy", label) { () throws(Errno) in
      var foreign: [String] = []
      // The configuration goes first: from then on this is no repository, so that nothing half-removed is
      // ever taken for one. The locks go last, to keep others out for as long as there is something.
      let order: [Namespace] = [.config, .archives, .keys, .cache, .data, .locks]
      for namespace in order {
        do throws(Errno) {
          try root.removeTree(namespace.rawValue)
        } catch .notDirectory {
          try root.remove(namespace.rawValue)  // a link to a directory, now empty
        }
      }
      for entry in try root.entries() {
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

  // MARK: Parts

  private func nested(_ name: StoreName) -> String { name.nested(dataLevels: options.dataLevels) }

  private func throwFailure() throws(ServeError) {
    if let failure = state.withLock({ $0.failure }) { throw failure }
  }

  private func noteUnsynced(_ directories: [String]) {
    state.withLock { $0.unsynced.formUnion(directories) }
  }

  private func area(_ namespace: Namespace) throws(ServeError) -> StagingArea {
    if let area = state.withLock({ $0.areas[namespace] }) { return area }
    let area = try ServeError.doing("create", namespace.rawValue) { () throws(Errno) in
      try StagingArea(root: root, namespace: namespace) { created in
        noteUnsynced(created.map { $0.parentName ?? "" })
      }
    }
    // Two workers may come here at once; the second one's area is given up.
    let winner = state.withLock { state in
      if let other = state.areas[namespace] { return other }
      state.areas[namespace] = area
      return area
    }
    if winner !== area { _ = try? area.remove() }
    return winner
  }
}
