public import BorgFormat
import Disk
import SystemPackage

/// How staged objects get their names, and how all of it gets to stable storage.
extension PosixStore {
  /// Files, or directories, up to which syncing each beats one `syncfs`, which also has to wait for every
  /// other writer of the file system.
  private static let fewEnoughToSyncEach = 8

  /// Publishers: while one gives a batch its names, the next batch is already on its way to the disk.
  private static let publishers = 2

  /// Sealed batches that may wait. With more, what a power cut costs would grow with the difference between
  /// the client's speed and the disk's.
  private static let mostSealed = 2

  // MARK: Barriers

  public func barrier(durable: Bool) throws(ServeError) {
    let staged = state.withLock { $0.staged }
    seal()
    // Not for what others seal meanwhile, or it would never end where many write.
    let last = state.withLock { $0.sealed.last?.number }
    let failure: ServeError? = state.wait { state -> ServeError?? in
      let isPublished = last.map { last in state.sealed.first.map { $0.number > last } ?? true } ?? true
      return state.failure != nil || isPublished ? .some(state.failure) : nil
    }
    if let failure { throw failure }
    guard durable else { return }
    try syncDirectories()
    state.withLock { $0.settled = max($0.settled, staged) }
  }

  public func tick() {
    let isDue = state.withLock { state in
      state.filling.since.map { ContinuousClock.now - $0 >= .seconds(Limits.stagedSeconds) } ?? false
    }
    if isDue { seal() }
  }

  /// Holds whoever stores back until the publisher has caught up.
  func waitForRoom() throws(ServeError) {
    state.wait { $0.failure != nil || $0.sealed.count <= Self.mostSealed ? () : nil }
    try throwFailure()
  }

  /// Hands the batch that is being filled over to be published. A failure is the next write's to learn of.
  func seal() {
    let isInline = state.update { state in
      guard !state.filling.entries.isEmpty, !state.isClosing else { return false }
      state.sealed.append(state.filling)
      state.filling = Batch(number: state.filling.number + 1)
      if options.publishesInBackground, state.publishers.isEmpty {
        // They wait for this very lock, so that nobody can see a thread that is not noted here.
        for _ in 0..<Self.publishers {
          guard let thread = WorkerThread({ [self] in publishUntilClosed() }) else { break }
          state.publishers.append(thread)
        }
      }
      return state.publishers.isEmpty
    }
    if isInline { publishSealed() }
  }

  private func publishUntilClosed() {
    while true {
      let goesOn = state.wait { state in
        if state.claimed < state.sealed.count && state.failure == nil { return true }
        return state.isClosing ? false : nil
      }
      guard goesOn else { return }
      publishSealed()
    }
  }

  private func publishSealed() {
    while let batch = claim() {
      let result = Result { () throws(ServeError) in
        try flush(batch)
        makeRoom(for: batch)
        try waitForTurn(batch)
        for entry in batch.entries {
          try publish(entry)
        }
      }
      state.update { state in
        switch result {
        case .success:
          state.sealed.removeFirst()
          state.claimed -= 1
          for entry in batch.entries where state.pending[entry.path]?.upload === entry.upload {
            state.pending[entry.path] = nil
          }
        case .failure(let failure):
          state.failure = state.failure ?? failure
        }
      }
    }
  }

  /// The first batch that nobody is publishing, for one publisher alone.
  private func claim() -> Batch? {
    state.withLock { state in
      guard state.failure == nil, state.claimed < state.sealed.count else { return nil }
      state.claimed += 1
      return state.sealed[state.claimed - 1]
    }
  }

  /// Waits until the batches before this one have their names: an object may be in several of them.
  private func waitForTurn(_ batch: Batch) throws(ServeError) {
    state.wait { $0.failure != nil || $0.sealed.first?.number == batch.number ? () : nil }
    try throwFailure()
  }

  /// Makes those of a batch's bytes durable that are not yet.
  private func flush(_ batch: Batch) throws(ServeError) {
    let unsynced = batch.entries.filter { !$0.isSynced }
    guard !unsynced.isEmpty else { return }
    if state.withLock({ $0.syncsWhole }), unsynced.count > Self.fewEnoughToSyncEach {
      return try syncFileSystem()
    }
    for entry in unsynced {
      try ServeError.doing("make durable", entry.path.text) { () throws(Errno) in
        try entry.upload.open().sync()
      }
    }
  }

  /// Makes the directories that a batch needs while another one gets its names: in a young repository most objects are
  /// the first in theirs. Stops early where they are there; whatever is missing is made when its object gets its name.
  private func makeRoom(for batch: Batch) {
    guard batch.entries.count > Self.directoriesTried else { return }
    var made = 0
    for (number, entry) in batch.entries.enumerated() {
      guard made * 4 >= number || number < Self.directoriesTried else { return }
      guard let parent = entry.path.text.parentName else { return }
      if let new = try? root.makeDirectories(parent), !new.isEmpty { made += 1 }
    }
  }

  /// Directories after which a batch shows whether most of them are missing.
  private static let directoriesTried = 16

  // MARK: Names

  /// Gives a staged object its name. One in whose place somebody has made a directory meanwhile, or an object above it, is
  /// given up: nobody can have both, and the others of its batch are not to suffer.
  private func publish(_ entry: Batch.Entry) throws(ServeError) {
    do {
      try publish(entry.upload, as: entry.path.text, replacing: !entry.keepsOther)
    } catch {
      guard case .system(let failure) = error,
        [Errno.isDirectory, .notDirectory].map(\.rawValue).contains(failure.code)
      else { throw error }
      entry.upload.abandon()
    }
  }

  /// Gives a finished upload its name; without `replacing` only if nobody has it, else the upload is given up. One
  /// that fails stays staged, where this session can still read it.
  func publish(_ upload: StagedUpload, as path: String, replacing: Bool = true) throws(ServeError) {
    do {
      do {
        try rename(upload.name, in: upload.area.directory, to: path, replacing: replacing)
      } catch .improperLink {
        try copyAcross(upload, to: path, replacing: replacing)
      }
    } catch .fileExists where !replacing {
      let isOther = try ServeError.doing("make durable", path) { () throws(Errno) in try adoptFile(path) }
      // What is there and is no object, such as a link to what is gone, is no better than nothing.
      guard isOther else { return try publish(upload, as: path) }
      upload.abandon()
    } catch {
      throw .system(SystemFailure("publish", path, error))
    }
  }

  /// Sees to it that an object which somebody else has published is durable at the next barrier: the original never
  /// syncs. False if there is no file with something in it.
  func adoptFile(_ path: String) throws(Errno) -> Bool {
    do {
      let file = try root.file(path)
      guard try file.size() > 0 else { return false }
      try file.sync()
    } catch .noSuchFileOrDirectory, .invalidArgument, .isDirectory {
      return false
    }
    noteUnsynced(path.parentName ?? "")
    return true
  }

  /// Renames, makes missing parents on the way, and notes which directories are to be synced.
  func rename(_ name: String, in directory: Directory, to path: String, replacing: Bool = true) throws(Errno)
  {
    do {
      try directory.rename(name, to: path, in: root, replacing: replacing)
    } catch .noSuchFileOrDirectory {
      // Nothing is made for what is not there.
      guard let parent = path.parentName, try directory.status(name) != nil else {
        throw .noSuchFileOrDirectory
      }
      try root.makeDirectories(parent)
      try directory.rename(name, to: path, in: root, replacing: replacing)
    }
    noteUnsynced(path.parentName ?? "")
  }

  /// Publishes an upload whose name lies on another file system, where somebody linked a directory to.
  ///
  /// A crash in the middle leaves a hidden file beside the name, which nobody sweeps.
  private func copyAcross(_ upload: StagedUpload, to path: String, replacing: Bool) throws(Errno) {
    state.withLock { $0.syncsWhole = false }
    let parent = path.parentName.map { $0 + "/" } ?? ""
    let temporary = "\(parent)borg-serve-\(Hex.string(Host.randomBytes(8)))\(StoreName.temporarySuffix)"
    let source = try upload.open()
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
      try root.rename(temporary, to: path, in: root, replacing: replacing)
    } catch {
      _ = try? root.remove(temporary)
      throw error
    }
    noteUnsynced(path.parentName ?? "")
    upload.abandon()
  }

  // MARK: Syncing

  /// Notes a directory whose entries changed, and its parents, as long as nobody knows whether its own name
  /// is durable; but not the locks': those are there to be seen, not to last.
  func noteUnsynced(_ directory: String) {
    guard directory != Namespace.locks.rawValue else { return }
    state.withLock { state in
      guard !(state.needsWholeSync && state.syncsWhole) else { return }
      state.unsynced.insert(directory)
      var name = directory
      while !state.anchored.contains(name) {
        name = name.parentName ?? ""
        state.unsynced.insert(name)
      }
      // Never taken back here: names that were not noted because of it wait for it.
      if state.syncsWhole, state.unsynced.count > Self.fewEnoughToSyncEach { state.needsWholeSync = true }
    }
  }

  /// Sees to it that a session's first reference is not durable before objects that somebody else stored:
  /// the original never syncs, and a killed session of ours has not come to it.
  ///
  /// Where one `syncfs` is not known to reach everything, it is tried all the same, and promises nothing:
  /// over FUSE and on network file systems what others left unsynced is theirs to lose.
  func noteOthersWrites() {
    state.withLock { state in
      guard !state.hasSyncedOthers else { return }
      (state.hasSyncedOthers, state.needsWholeSync) = (true, true)
    }
  }

  /// Makes the entries of all changed directories durable, those too that another thread is at.
  func syncDirectories() throws(ServeError) {
    let (directories, isWhole): (Set<String>, Bool) = state.wait { state in
      guard !state.isSyncing else { return nil }
      state.isSyncing = state.needsWholeSync || !state.unsynced.isEmpty
      defer { (state.unsynced, state.needsWholeSync) = ([], false) }
      return (state.unsynced, state.needsWholeSync)
    }
    guard isWhole || !directories.isEmpty else { return try throwFailure() }
    let result = Result { () throws(ServeError) in
      if isWhole {
        // One that covers everything does it for the directories that were noted before, too.
        if state.withLock({ $0.syncsWhole }) { return try syncFileSystem() }
        // Names that were not noted before a namespace turned out to lie elsewhere are on the root's.
        if rootSyncsWhole { try syncFileSystem() } else { _ = try? root.syncFileSystem() }
      }
      for directory in directories.sorted() {
        try ServeError.doing("make durable", directory) { () throws(Errno) in
          do throws(Errno) {
            try root.sync(directory)
          } catch .noSuchFileOrDirectory {
            // Removed since: the entry that is gone is its parent's to make durable.
          }
        }
      }
    }
    // The kernel reports a failed write-back once and forgets it: nothing that follows can be trusted.
    state.update { state in
      state.isSyncing = false
      switch result {
      case .success:
        state.anchored.formUnion(directories.filter { directories.contains($0.parentName ?? "") })
      case .failure(let failure):
        state.failure = state.failure ?? failure
      }
    }
    try result.get()
  }

  /// Makes everything on the root's file system durable.
  ///
  /// One at a time, and its failure is noted before the next can begin: the kernel tells of a failed
  /// write-back once per descriptor, so that of two at once one would hear nothing and go on to publish.
  private func syncFileSystem() throws(ServeError) {
    let failure: ServeError? = state.wait { state -> ServeError?? in
      if let failure = state.failure { return .some(failure) }
      guard !state.isSyncingWhole else { return nil }
      state.isSyncingWhole = true
      return .some(nil)
    }
    if let failure { throw failure }
    let result = Result { () throws(ServeError) in
      try ServeError.doing("make durable", Namespace.data.rawValue) { () throws(Errno) in
        try root.syncFileSystem()
      }
    }
    state.update { state in
      state.isSyncingWhole = false
      if case .failure(let failure) = result { state.failure = state.failure ?? failure }
    }
    try result.get()
  }
}
