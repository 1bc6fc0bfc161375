public import BorgFormat
public import Disk
public import SegmentRepository
import SystemPackage

/// One connection's repository of Borg 1.x: opened or created within what is granted, by the original's rules and in
/// their order.
///
/// One thread at a time; what ends it from another one is its `Cancellation`. A class because the connection's requests
/// share it. Source: borg 1.4.5 `src/borg/remote.py` `RepositoryServer.open`, `repository.py` `Repository.create`.
public final class SegmentSession {
  /// What a client asks of `open`.
  public struct OpenRequest: Sendable {
    /// As the client spells it.
    public var path: [UInt8]
    public var creates = false
    public var locking = SegmentRepository.Locking.upgradable
    /// Nil: wait for ever.
    public var lockWait: Duration?
    public var appendOnly = false
    public var makesParents = false
    /// Whether the path may name home directories, as clients of Borg 1.x spell them.
    public var expandsHome = true

    public init(path: [UInt8]) { self.path = path }
  }

  private let configuration: SessionConfiguration
  private let policy: SegmentPolicy
  private let identity: LockIdentity
  private let reporter: any Reporter
  private let cancellation: Cancellation
  private var current: SegmentRepository?
  private var place: RepositoryLocation?
  private let operations = OperationNumbers()
  /// Whether the repository that was open last was destroyed by this session.
  public private(set) var wasDestroyed = false
  /// Whether some `open` passed the restrictions.
  public private(set) var hasOpened = false

  public init(
    configuration: SessionConfiguration, identity: LockIdentity, reporter: any Reporter,
    cancellation: Cancellation
  ) {
    (self.configuration, self.identity) = (configuration, identity)
    (self.reporter, self.cancellation) = (reporter, cancellation)
    policy = SegmentPolicy(mode: configuration.permissions, appendOnly: configuration.appendOnly)
  }

  /// The open repository, as far as the client may use it. Throws `notOpen` if there is none.
  public var repository: GrantedSegmentRepository {
    get throws(ServeError) {
      guard let current else { throw .notOpen }
      return GrantedSegmentRepository(current, policy)
    }
  }

  /// Opens a repository; one that is open is closed first, once the new one's path is admitted. Returns its id.
  ///
  /// Throws what the engine does, `repositoryVersion` for a repository of Borg 2, and `pathNotAllowed`, `permissionDenied`, `repositoryMissing`, `repositoryExists`,
  /// `pathAlreadyExists`, `parentPathMissing`, `pathPermissionDenied`.
  public func open(_ request: OpenRequest) throws(ServeError) -> [UInt8] {
    let label = String(decoding: request.path, as: UTF8.self)
    reporter.log(.debug, .serve, "Resolving repository path \(label.shortened)")
    let location = try configuration.admit(
      request.expandsHome ? ClientPath.expanded(request.path) : request.path, label)
    hasOpened = true
    if let refusal = configuration.refusal { throw refusal }
    if request.creates { try policy.require(.create, "creating a repository") }
    do throws(ServeError) {
      try close()
    } catch .notLocked {
      // Somebody broke its lock: nothing is left to release.
    }
    if request.creates { try create(at: location, label, request) }
    let root = try directory(at: location, label)
    if root.isObjectRepository { throw .repositoryVersion(label, Int(RepositoryLayout.version)) }
    let repository = try SegmentRepository(
      root: root, label: label, options: options(request), identity: identity, reporter: reporter,
      cancellation: cancellation)
    (current, place, wasDestroyed) = (repository, location, false)
    return repository.id
  }

  private func options(_ request: OpenRequest) -> SegmentRepository.Options {
    var options = SegmentRepository.Options()
    options.locking = request.locking
    options.lockWait = request.lockWait
    // The connection that creates a repository does not escape the server's option.
    options.appendOnly = request.appendOnly || policy.isAppendOnly
    options.storageQuota = configuration.storageQuota
    options.isReadOnly = configuration.permissions == .readOnly
    options.isNew = request.creates
    options.operations = operations
    return options
  }

  private func directory(at location: RepositoryLocation, _ label: String) throws(ServeError) -> Directory {
    do {
      return try location.open()
    } catch {
      switch error {
      case .noSuchFileOrDirectory: throw .repositoryMissing(label)
      case .notDirectory: throw .repositoryInvalid(label)
      case .improperLink: throw .pathNotAllowed(label)
      case .permissionDenied: throw .pathPermissionDenied(label)
      default: throw .system(SystemFailure("open", label, error))
      }
    }
  }

  // MARK: Creating

  private func create(at location: RepositoryLocation, _ label: String, _ request: OpenRequest)
    throws(ServeError)
  {
    try requireRoom(at: location, label)
    // A repository in a repository would escape the outer one's quota and might be taken for its segments.
    var parent = location.path.parent
    // Not beyond what is granted: whether there is one outside is not this client's to know.
    while let path = parent, configuration.granted.areUnrestricted || isGranted(path) {
      if let directory = try? path.open(), directory.isRepository { throw .repositoryExists(label) }
      parent = path.parent
    }
    if !request.makesParents, let parent = location.path.parent {
      do {
        _ = try parent.open()
      } catch .noSuchFileOrDirectory {
        throw .parentPathMissing(label)
      } catch {
        // A parent that cannot be read may still take a directory.
      }
    }
    var options = SegmentRepository.CreationOptions()
    options.appendOnly = request.appendOnly
    options.storageQuota = configuration.storageQuota
    let isNew: Bool
    do {
      isNew = try location.create()
    } catch {
      switch error {
      case .improperLink: throw .pathNotAllowed(label)
      case .permissionDenied: throw .pathPermissionDenied(label)
      case .notDirectory: throw .parentPathMissing(label)
      default: throw .system(SystemFailure("create", label, error))
      }
    }
    do {
      try SegmentRepository.create(in: try directory(at: location, label), label: label, options)
    } catch {
      // It is empty, unless somebody else was faster.
      if isNew { try? location.remove() }
      throw error
    }
  }

  private func isGranted(_ path: RepositoryPath) -> Bool {
    ((try? configuration.granted.root(holding: path)) ?? nil) != nil
  }

  /// Throws unless there is nothing at the place, or an empty directory.
  private func requireRoom(at location: RepositoryLocation, _ label: String) throws(ServeError) {
    let (isRepository, isEmpty): (Bool, Bool)
    do {
      let directory = try location.open()
      (isRepository, isEmpty) = (directory.isRepository, try directory.entries().isEmpty)
    } catch {
      switch error {
      case .noSuchFileOrDirectory: return
      case .notDirectory: throw .pathAlreadyExists(label)
      case .improperLink: throw .pathNotAllowed(label)
      case .permissionDenied: throw .pathPermissionDenied(label)
      default: throw .system(SystemFailure("open", label, error))
      }
    }
    guard !isRepository else { throw .repositoryExists(label) }
    guard isEmpty else { throw .pathAlreadyExists(label) }
  }

  // MARK: The end

  /// Closes the repository, if one is open: what was written is durable, the lock released.
  public func close() throws(ServeError) {
    defer { current = nil }
    try current?.close()
  }

  /// Removes the open repository; another may be opened then.
  public func destroy() throws(ServeError) {
    guard let repository = current else { throw .notOpen }
    try policy.require(.destroy, "destroying the repository")
    try repository.destroy()
    (current, wasDestroyed) = (nil, true)
    do {
      try place?.remove()
    } catch .permissionDenied, .notPermitted {
      // Where nothing but the repository is granted, the directory itself stays, empty.
    } catch {
      throw .system(SystemFailure("remove", "the repository's directory", error))
    }
  }
}

extension Directory {
  /// Whether this has the layout of a repository of Borg 2, of version 3.
  fileprivate var isObjectRepository: Bool {
    guard let status = try? status(Namespace.config.rawValue) else { return false }
    return status.kind == .directory
  }

  /// Whether a README says that this is a repository. Source: borg 1.4.5 `Repository.is_repository`.
  fileprivate var isRepository: Bool {
    guard let readme = try? file("README"),
      let head = try? readme.read(at: 0, count: SegmentReadme.headSize)
    else { return false }
    return SegmentReadme.isRepositoryReadme(head)
  }
}
