public import BorgFormat
public import Disk
public import ObjectRepository
import SegmentRepository
public import Storage
import Synchronization
import SystemPackage

/// What the server's owner grants, and how the store is laid out: the same for a whole process.
public struct SessionConfiguration: Sendable {
  /// Where repositories may be.
  public var granted = GrantedRoots()
  /// `BORG_STORE_DATA_LEVELS`, as it stands in the environment.
  public var dataLevels: String?
  /// What clients may do to a repository.
  public var permissions = Permissions.all
  /// Why no repository may be opened at all, if so: a setting that cannot be honoured.
  public var refusal: ServeError?
  /// Why no repository of Borg 2 may be opened, if so.
  public var refusalOfBorg2: ServeError?
  /// Whether repositories of Borg 1.x only grow, whatever their configs say.
  public var appendOnly = false
  /// Bytes that a repository may hold; 0 lifts the quota in the config of a repository of Borg 1.x, nil leaves it.
  public var storageQuota: UInt64?

  /// Bytes that a repository of Borg 2 may hold, or nil.
  public var usageLimit: UInt64? { storageQuota.flatMap { $0 > 0 ? $0 : nil } }

  public init() {}

  /// Resolves a path and holds it against the restrictions. `label` is the client's spelling, for messages.
  func admit(_ path: [UInt8], _ label: String) throws(ServeError) -> RepositoryLocation {
    guard path.count <= Limits.path else { throw .argumentValue("path is too long") }
    let admitted = try ServeError.doing("resolve", label) { () throws(Errno) in try granted.admit(path) }
    guard let admitted else { throw .pathNotAllowed(label) }
    return admitted
  }
}

/// One connection's repository: opens it within what is granted, and sees to it that however the
/// connection ends, the repository is whole and its locks are free.
///
/// A class because the connection's threads share it.
public final class Session: Sendable {
  private let configuration: SessionConfiguration
  private let owner: LockOwner
  private let reporter: any Reporter
  public let cancellation: Cancellation
  private let state = Mutex(State())

  private struct State {
    var repository: ObjectRepository?
    var lastRequest = ContinuousClock.now
    var lastRefresh = ContinuousClock.now
  }

  public init(
    configuration: SessionConfiguration, owner: LockOwner, reporter: any Reporter, cancellation: Cancellation
  ) {
    (self.configuration, self.owner) = (configuration, owner)
    (self.reporter, self.cancellation) = (reporter, cancellation)
  }

  /// The open repository, as far as the client may use it. Throws `notOpen` if there is none.
  public var repository: GrantedRepository {
    get throws(ServeError) {
      guard let repository = current else { throw .notOpen }
      return GrantedRepository(repository, mode: configuration.permissions)
    }
  }

  private var current: ObjectRepository? {
    state.withLock { state in
      state.lastRequest = .now
      return state.repository
    }
  }

  /// Opens a repository at a client's path; one that is open is closed first. Returns its id.
  public func open(path: [UInt8], creates: Bool, _ mode: ObjectRepository.Mode)
    throws(ServeError) -> [UInt8]
  {
    let label = String(decoding: path, as: UTF8.self)
    reporter.log(.debug, .serve, "Resolving repository path \(label.shortened)")
    let location = try configuration.admit(path, label)
    if let refusal = configuration.refusal ?? configuration.refusalOfBorg2 { throw refusal }
    if creates { try require(.store, "creating a repository") }
    try close()
    let repository =
      try creates ? create(at: location, label, mode) : openExisting(at: location, label, mode)
    state.withLock { $0.repository = repository }
    return repository.id
  }

  /// Throws unless the client may do this to a repository as a whole.
  private func require(_ operation: Policy.Operation, _ what: String) throws(ServeError) {
    let mode = configuration.permissions
    guard Policy.decide(mode, operation, at: .root) == .granted else {
      throw mode.denial(of: what)
    }
  }

  private func openExisting(at location: RepositoryLocation, _ label: String, _ mode: ObjectRepository.Mode)
    throws(ServeError) -> ObjectRepository
  {
    let root: Directory
    do {
      root = try location.open()
    } catch {
      switch error {
      case .noSuchFileOrDirectory, .notDirectory: throw .repositoryMissing(label)
      case .improperLink: throw .pathNotAllowed(label)
      case .permissionDenied: throw .pathPermissionDenied(label)
      default: throw .system(SystemFailure("open", label, error))
      }
    }
    if let version = SegmentRepository.version(in: root) { throw .repositoryVersion(label, version) }
    let store = PosixStore(root: root, label: label, options: try storeOptions(), location: location)
    return try repository(in: try metered(store, root, location, label), mode)
  }

  /// The store, counting what is stored if there is a limit, or if others count there.
  private func metered(
    _ store: PosixStore, _ root: Directory, _ location: RepositoryLocation, _ label: String
  )
    throws(ServeError) -> any ObjectStore
  {
    do {
      let limits = try UsageLedger.limits(
        for: location, root: root, label: label, limit: configuration.usageLimit)
      return limits.isEmpty ? store : MeteredStore(store, limits: limits)
    } catch {
      try? store.close()
      throw error
    }
  }

  private func create(at location: RepositoryLocation, _ label: String, _ mode: ObjectRepository.Mode)
    throws(ServeError) -> ObjectRepository
  {
    let options = try storeOptions()
    let (isNew, root): (Bool, Directory)
    do {
      (isNew, root) = (try location.create(), try location.open())
    } catch .improperLink {
      throw .pathNotAllowed(label)
    } catch {
      throw .system(SystemFailure("create", label, error))
    }
    let isClaimed = try ServeError.doing("create", label) { () throws(Errno) in
      guard try root.entries().isEmpty else { return false }
      // Of two that create at once, the one that makes this directory goes on.
      return try !root.makeDirectories(Namespace.config.rawValue).isEmpty
    }
    guard isClaimed else { throw .repositoryExists(label) }
    let store = PosixStore(root: root, label: label, options: options, location: location)
    do {
      try ObjectRepository.create(in: store)
    } catch {
      // A repository that nobody was told of: leave nothing that a second try would trip over.
      _ = try? store.destroy()
      if !isNew { _ = try? location.create() }
      throw error
    }
    return try repository(in: try metered(store, root, location, label), mode)
  }

  private func repository(in store: any ObjectStore, _ mode: ObjectRepository.Mode)
    throws(ServeError) -> ObjectRepository
  {
    do {
      return try ObjectRepository(
        store: store, mode: mode, owner: owner, reporter: reporter, cancellation: cancellation)
    } catch {
      try? store.close()
      throw error
    }
  }

  private func storeOptions() throws(ServeError) -> PosixStore.Options {
    var options = PosixStore.Options()
    guard let text = configuration.dataLevels else { return options }
    guard let levels = Int(text), (0...31).contains(levels) else {
      throw .argumentValue("BORG_STORE_DATA_LEVELS is not a number from 0 to 31: \(text.shortened)")
    }
    options.dataLevels = levels
    return options
  }

  /// Closes the repository, if one is open: everything durable, the lock released.
  public func close() throws(ServeError) {
    try detach()?.close()
  }

  /// Removes the open repository.
  public func destroy() throws(ServeError) {
    guard current != nil else { throw .notOpen }
    try require(.delete, "destroying the repository")
    guard let repository = detach() else { throw .notOpen }
    let foreign = try repository.destroy()
    guard !foreign.isEmpty else { return }
    let names = foreign.prefix(10).map(\.shortened).joined(separator: ", ")
    let more = foreign.count > 10 ? " and \(foreign.count - 10) more" : ""
    reporter.log(
      .warning, .serve, "Kept what does not belong to the repository: \(names)\(more)")
  }

  private func detach() -> ObjectRepository? {
    state.withLock { state in
      defer { state.repository = nil }
      return state.repository
    }
  }

  /// Begins an object that is too large for memory.
  ///
  /// Throws `permissionDenied` where nothing may be stored at all, before the first byte is kept.
  public func upload() throws(ServeError) -> any Upload {
    guard let repository = current else { throw .notOpen }
    guard Policy.decide(configuration.permissions, .store, at: .namespace(.data)) == .granted else {
      throw configuration.permissions.denial(of: "storing")
    }
    return try repository.upload()
  }

  /// The periodic work, called every second or so: publishing what has waited, keeping a silent client's
  /// lock fresh for a day.
  public func tick(at now: ContinuousClock.Instant = .now) {
    let (repository, isDue) = state.withLock { state in
      let silence = now - state.lastRequest
      let isDue =
        now - state.lastRefresh > .seconds(60) && silence < .seconds(Limits.silentClientSeconds)
      if isDue { state.lastRefresh = now }
      return (state.repository, isDue)
    }
    repository?.tick()
    // A lock that is gone is the next request's to report.
    if isDue { try? repository?.refreshLock() }
  }
}
