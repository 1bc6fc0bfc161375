import TestKit
public import Disk
public import SystemPackage

/// A kind of call to a disk.
public enum CallKind: String, CaseIterable, Sendable {
  case open, create, close, read, write, startWriteback, sync, syncFileSystem, rename, unlink, makeDirectory,
    removeDirectory, link, entries, status, lock, facts
}

/// A call that was made to a simulated disk.
public struct DiskCall: Sendable, Equatable, CustomStringConvertible {
  /// Counts from 0, closing included.
  public let number: Int
  public let kind: CallKind
  /// The names as they were given.
  public let names: String

  public var description: String { "\(number) \(kind) \(names)" }
}

/// A disk in memory, which loses, tears and reorders what was not synced, and fails when told to.
///
/// `powerCut` and `kill` give the disk that the next process finds; this one is dead afterwards, so that
/// threads which still use it change nothing. Links, modes and times are not simulated. A class because it
/// stands for one disk that many share.
public final class SimulatedDisk: DiskCalls {
  private let state: Monitor<State>

  private struct State {
    var files = SimulatedFileSystem()
    var descriptors: [RawDescriptor: Descriptor] = [:]
    var locks: [SimulatedFileSystem.Number: [RawDescriptor: LockKind]] = [:]
    var lastDescriptor: RawDescriptor = 2
    var calls: [DiskCall] = []
    /// Calls that are over, whatever came of them, though a hook may still keep their callers waiting.
    var finished: [CallKind: Int] = [:]
    var faults: [Fault] = []
    var isDead = false
    var options: Options

    /// Bytes that may still be written.
    var room: Int {
      // Counting takes a look at every file.
      options.capacity == .max ? .max : max(0, options.capacity - files.usedBytes)
    }

    func number(_ descriptor: RawDescriptor) throws(Errno) -> SimulatedFileSystem.Number {
      guard let descriptor = descriptors[descriptor] else { throw .badFileDescriptor }
      return descriptor.number
    }

    mutating func open(_ number: SimulatedFileSystem.Number) -> RawDescriptor {
      let (fileErrors, deviceErrors) = files.sampleErrors(of: number)
      lastDescriptor += 1
      descriptors[lastDescriptor] = Descriptor(
        number: number, fileErrors: fileErrors, deviceErrors: deviceErrors)
      _ = files.withFile(number) { $0.descriptors += 1 }
      return lastDescriptor
    }
  }

  private struct Descriptor {
    let number: SimulatedFileSystem.Number
    /// Failed write-backs that its owner was told of, or had no part in.
    var fileErrors: Int
    var deviceErrors: Int
  }

  public struct Options: Sendable {
    /// Whether one `syncfs` is enough, as on ext4; else files and directories are synced one by one.
    public var syncsWhole = true
    /// Bytes for all files together.
    public var capacity = Int.max
    /// Descriptors that may be open.
    public var openFiles = Int.max
    /// Whether directories can be locked; else `lock` throws ENOLCK.
    public var hasLocks = true
    /// The modification time of everything, in seconds since 1970.
    public var modified: Int64 = 1_700_000_000
    /// That of single files and directories, by the names under which they are looked at.
    public var modifiedByName: [String: Int64] = [:]

    public init() {}
  }

  private struct Fault {
    enum Effect {
      case failure(Errno, isPermanent: Bool)
      case powerLoss
      case hook(@Sendable () -> Void)
    }

    let kind: CallKind?
    var comesAfter = false
    /// Matching calls that are let pass before.
    var passes: Int
    let effect: Effect
  }

  /// An empty disk.
  public convenience init(_ options: Options = Options()) { self.init(State(options: options)) }

  private init(_ state: State) { self.state = Monitor(state) }

  // MARK: What is to go wrong

  /// Lets a call fail, the one after `passes` of this kind or, without a kind, of any that can fail.
  ///
  /// A failing sync drops the data that it was to save, as Linux does: later syncs succeed without it. Other
  /// descriptors of the device are told of a failed `syncFileSystem` once.
  public func fail(
    _ kind: CallKind? = nil, after passes: Int = 0, with errno: Errno, permanently: Bool = false
  ) {
    add(Fault(kind: kind, passes: passes, effect: .failure(errno, isPermanent: permanently)))
  }

  /// Cuts the power: this call and all that follow throw EIO.
  public func losePower(_ kind: CallKind? = nil, after passes: Int = 0) {
    add(Fault(kind: kind, passes: passes, effect: .powerLoss))
  }

  /// Runs `body`, once, when a call is about to be carried out. It may call the disk.
  public func before(_ kind: CallKind, after passes: Int = 0, _ body: @escaping @Sendable () -> Void) {
    add(Fault(kind: kind, passes: passes, effect: .hook(body)))
  }

  /// Runs `body`, once, when a call was carried out, or has failed, and its caller does not know yet. It may
  /// call the disk, and keep the caller waiting.
  public func after(_ kind: CallKind, after passes: Int = 0, _ body: @escaping @Sendable () -> Void) {
    add(Fault(kind: kind, comesAfter: true, passes: passes, effect: .hook(body)))
  }

  /// Waits, in a hook, until `count` calls of a kind are over since the disk was made; false if they are not
  /// when patience is at its end. So one call is held while another overtakes it, if it can.
  @discardableResult
  public func waitUntilFinished(
    _ kind: CallKind, count: Int, patience: Duration = .milliseconds(100)
  ) -> Bool {
    state.wait(timeout: patience) { $0.finished[kind, default: 0] >= count ? true : nil } ?? false
  }

  /// Lets the disk fail to write back all data that is not synced, on the device of this path. Linux then
  /// counts the data as clean, and tells each descriptor that was open once: a file's at `sync`, any one of
  /// the device at `syncFileSystem`.
  public func failWriteback(below path: String = "") {
    state.withLock { state in
      guard let number = try? state.files.resolve(path, from: SimulatedFileSystem.root) else { return }
      state.files.failWriteback(on: state.files.device(of: number))
    }
  }

  private func add(_ fault: Fault) { state.withLock { $0.faults.append(fault) } }

  /// Takes back all that was to go wrong.
  public func heal() { state.withLock { $0.faults = [] } }

  public var options: Options {
    get { state.withLock { $0.options } }
    set { state.withLock { $0.options = newValue } }
  }

  // MARK: Ends of a process

  /// What the next process finds when this one was killed. The descriptors and their locks are gone.
  public func kill() -> SimulatedDisk {
    end { $0.kill() }
  }

  /// What the next process finds after a power cut: one of the states that are possible, chosen by the seed.
  public func powerCut(seed: UInt64) -> SimulatedDisk {
    var generator = SeededGenerator(seed: seed)
    return end { $0.cutPower(using: &generator) }
  }

  private func end(_ change: (inout SimulatedFileSystem) -> Void) -> SimulatedDisk {
    let (files, options) = state.withLock { state in
      state.isDead = true
      return (state.files, state.options)
    }
    var next = State(options: options)
    next.files = files
    change(&next.files)
    return SimulatedDisk(next)
  }

  // MARK: What is there

  /// All calls so far.
  public var calls: [DiskCall] { state.withLock { $0.calls } }

  public func count(_ kind: CallKind) -> Int {
    state.withLock { state in state.calls.count { $0.kind == kind } }
  }

  /// Calls so far that count for a fault of any kind.
  public var failableCount: Int {
    state.withLock { state in state.calls.count { Self.canFail($0.kind) } }
  }

  public var openDescriptors: Int { state.withLock { $0.descriptors.count } }

  /// The paths of all files and, with a slash at the end, of all directories, as programs see them.
  public var paths: [String] { state.withLock { $0.files.paths } }

  /// A file's bytes as programs see them, or nil.
  public func contents(_ path: String) -> [UInt8]? {
    state.withLock { state in
      guard let number = try? state.files.resolve(path, from: SimulatedFileSystem.root) else { return nil }
      return state.files.files[number]?.bytes
    }
  }

  /// Puts a file on the disk, durably, with its directories, as if somebody else had made it long ago.
  public func install(_ bytes: [UInt8], at path: String) throws(Errno) {
    try state.withLock { state throws(Errno) in try state.files.install(bytes, at: path) }
  }

  /// Puts another device's empty file system at a path, from now on and for good, over what is there: nothing
  /// is renamed into it or out of it, and it is synced apart from the rest.
  public func mount(at path: String) throws(Errno) {
    try state.withLock { state throws(Errno) in try state.files.mount(at: path) }
  }

  /// Opens the directory in which everything is.
  public func root() -> Directory {
    Directory(state.withLock { $0.open(SimulatedFileSystem.root) }, calls: self)
  }

  // MARK: Calls

  private static func canFail(_ kind: CallKind) -> Bool { kind != .close && kind != .startWriteback }

  /// Counts a call, lets happen what is to happen at it, then carries it out.
  private func perform<Result>(
    _ kind: CallKind, _ names: String, onFailure: (inout State) -> Void = { _ in },
    _ body: (inout State) throws(Errno) -> Result
  ) throws(Errno) -> Result {
    var failure: Errno?
    let (effects, after) = register(kind, names)
    defer {
      state.update { $0.finished[kind, default: 0] += 1 }
      for body in after { body() }
    }
    for effect in effects {
      switch effect {
      case .failure(let errno, _): failure = failure ?? errno
      case .powerLoss: state.withLock { $0.isDead = true }
      case .hook(let body): body()
      }
    }
    return try state.withLock { state throws(Errno) in
      guard !state.isDead else { throw .ioError }
      if let failure {
        onFailure(&state)
        throw failure
      }
      return try body(&state)
    }
  }

  /// What is to happen when the call begins, and what to run at its end.
  private func register(_ kind: CallKind, _ names: String)
    -> (effects: [Fault.Effect], after: [@Sendable () -> Void])
  {
    state.withLock { state in
      state.calls.append(DiskCall(number: state.calls.count, kind: kind, names: names))
      var due: [Fault.Effect] = []
      var after: [@Sendable () -> Void] = []
      for index in state.faults.indices.reversed() {
        let fault = state.faults[index]
        guard fault.kind == kind || fault.kind == nil && Self.canFail(kind) else { continue }
        if fault.passes > 0 {
          state.faults[index].passes -= 1
          continue
        }
        if fault.comesAfter, case .hook(let body) = fault.effect {
          after.append(body)
        } else {
          due.append(fault.effect)
        }
        if case .failure(_, isPermanent: true) = fault.effect { continue }
        state.faults.remove(at: index)
      }
      return (due, after)
    }
  }

  public func open(_ name: String, in directory: RawDescriptor, _ mode: OpenMode)
    throws(Errno) -> RawDescriptor
  {
    let creates = mode == .create || mode == .createByMask
    return try perform(creates ? .create : .open, name) { state throws(Errno) in
      guard state.descriptors.count < state.options.openFiles else { throw .tooManyOpenFiles }
      let start = try state.number(directory)
      let number: SimulatedFileSystem.Number
      switch mode {
      case .create, .createByMask: number = try state.files.create(name, from: start)
      case .read, .update: number = try state.files.resolve(name, from: start)
      case .directory:
        number = try state.files.resolve(name, from: start)
        guard state.files.isDirectory(number) else { throw .notDirectory }
      }
      return state.open(number)
    }
  }

  public func close(_ descriptor: RawDescriptor) {
    try? perform(.close, "") { state throws(Errno) in
      let number = try state.number(descriptor)
      _ = state.files.withFile(number) { $0.descriptors -= 1 }
      state.locks[number]?[descriptor] = nil
      state.descriptors[descriptor] = nil
    }
  }

  public func read(
    _ descriptor: RawDescriptor, at offset: Int, into buffer: inout [UInt8], from start: Int, count: Int
  ) throws(Errno) -> Int {
    precondition(start >= 0 && count >= 0 && start + count <= buffer.count)
    let bytes = try perform(.read, "") { state throws(Errno) in
      guard let file = state.files.files[try state.number(descriptor)] else { throw .isDirectory }
      return file.bytes.dropFirst(offset).prefix(count)
    }
    buffer.replaceSubrange(start..<start + bytes.count, with: bytes)
    return bytes.count
  }

  /// There is nothing behind it that a kernel could send.
  public func send(_ descriptor: RawDescriptor, at offset: Int, count: Int, to output: RawDescriptor) -> Int?
  { nil }

  public func write(_ descriptor: RawDescriptor, at offset: Int, _ bytes: [UInt8], _ range: Range<Int>)
    throws(Errno)
  {
    try perform(.write, "") { state throws(Errno) in
      let number = try state.number(descriptor)
      guard let file = state.files.files[number] else { throw .isDirectory }
      let growth = max(0, offset + range.count - file.bytes.count)
      let room = state.room
      let written = max(0, range.count - max(0, growth - room))
      _ = state.files.withFile(number) { $0.write(bytes[range].prefix(written), at: offset) }
      guard growth <= room else { throw .noSpace }
    }
  }

  public func startWriteback(_ descriptor: RawDescriptor, at offset: Int, count: Int) {
    try? perform(.startWriteback, "") { _ in }
  }

  public func sync(_ descriptor: RawDescriptor) throws(Errno) {
    let dropData = { (state: inout State) in
      guard let number = try? state.number(descriptor) else { return }
      _ = state.files.withFile(number) { $0.forgetChanges() }
    }
    try perform(.sync, "", onFailure: dropData) { state throws(Errno) in
      let number = try state.number(descriptor)
      var seen = state.descriptors[descriptor]?.fileErrors ?? 0
      let hasFailed = state.files.withFile(number) { $0.writebackError.report(to: &seen) } ?? false
      state.descriptors[descriptor]?.fileErrors = seen
      state.files.sync(number)
      if hasFailed { throw .ioError }
    }
  }

  /// Stricter than it has to be: what `fdatasync` may leave out is nothing that this disk knows.
  public func syncData(_ descriptor: RawDescriptor) throws(Errno) { try sync(descriptor) }

  public func syncFileSystem(_ descriptor: RawDescriptor) throws(Errno) {
    // True if this descriptor's owner has to be told of a failure.
    let report = { (state: inout State, number: SimulatedFileSystem.Number) in
      var seen = state.descriptors[descriptor]?.deviceErrors ?? 0
      defer { state.descriptors[descriptor]?.deviceErrors = seen }
      return state.files.reportError(on: state.files.device(of: number), to: &seen)
    }
    let fail = { (state: inout State) in
      guard let number = try? state.number(descriptor) else { return }
      state.files.failWriteback(on: state.files.device(of: number))
      _ = report(&state, number)
    }
    try perform(.syncFileSystem, "", onFailure: fail) { state throws(Errno) in
      let number = try state.number(descriptor)
      let hasFailed = report(&state, number)
      state.files.syncAll(on: state.files.device(of: number))
      if hasFailed { throw .ioError }
    }
  }

  public func rename(
    _ name: String, in directory: RawDescriptor, to newName: String, in newDirectory: RawDescriptor,
    replacing: Bool
  ) throws(Errno) {
    try perform(.rename, "\(name) -> \(newName)") { state throws(Errno) in
      let (old, new) = (try state.number(directory), try state.number(newDirectory))
      try state.files.rename(name, from: old, to: newName, from: new, replacing: replacing)
    }
  }

  public func link(
    _ name: String, in directory: RawDescriptor, to newName: String, in newDirectory: RawDescriptor
  ) throws(Errno) {
    try perform(.link, "\(name) -> \(newName)") { state throws(Errno) in
      let (old, new) = (try state.number(directory), try state.number(newDirectory))
      try state.files.link(name, from: old, to: newName, from: new)
    }
  }

  public func unlink(_ name: String, in directory: RawDescriptor) throws(Errno) {
    try perform(.unlink, name) { state throws(Errno) in
      try state.files.unlink(name, from: try state.number(directory))
    }
  }

  public func makeDirectory(_ name: String, in directory: RawDescriptor) throws(Errno) {
    try perform(.makeDirectory, name) { state throws(Errno) in
      try state.files.makeDirectory(name, from: try state.number(directory))
    }
  }

  public func removeDirectory(_ name: String, in directory: RawDescriptor) throws(Errno) {
    try perform(.removeDirectory, name) { state throws(Errno) in
      try state.files.removeDirectory(name, from: try state.number(directory))
    }
  }

  public func entries(of directory: RawDescriptor) throws(Errno) -> [String] {
    try perform(.entries, "") { state throws(Errno) in
      guard let found = state.files.directories[try state.number(directory)] else { throw .notDirectory }
      // An order that is neither that of the names nor that of their making.
      return found.entries.keys.sorted { $0.reversed().lexicographicallyPrecedes($1.reversed()) }
    }
  }

  public func status(_ name: String, in directory: RawDescriptor) throws(Errno) -> FileStatus {
    try perform(.status, name) { state throws(Errno) in
      let number = try state.files.resolve(name, from: try state.number(directory))
      return FileStatus(
        kind: state.files.isDirectory(number) ? .directory : .file,
        size: state.files.files[number]?.bytes.count ?? 4096,
        modified: state.options.modifiedByName[name] ?? state.options.modified, inode: number,
        device: state.files.device(of: number), links: state.files.files[number]?.links ?? 1)
    }
  }

  /// Never waits: a disk that stands still cannot tell who would have to go on.
  public func lock(_ descriptor: RawDescriptor, _ kind: LockKind, waits: Bool) throws(Errno) -> Bool {
    try perform(.lock, "") { state throws(Errno) in
      guard state.options.hasLocks else { throw .noLocks }
      let number = try state.number(descriptor)
      let others = (state.locks[number] ?? [:]).filter { $0.key != descriptor }
      switch kind {
      case .none:
        state.locks[number] = others
        return true
      case .shared where others.values.contains(.exclusive), .exclusive where !others.isEmpty:
        if waits { throw .deadlock }
        return false
      case .shared, .exclusive:
        state.locks[number] = others.merging([descriptor: kind]) { $1 }
        return true
      }
    }
  }

  public func facts(_ descriptor: RawDescriptor) throws(Errno) -> FileSystemFacts {
    try perform(.facts, "") { state throws(Errno) in
      _ = try state.number(descriptor)
      return FileSystemFacts(syncsWhole: state.options.syncsWhole, available: UInt64(state.room))
    }
  }
}
