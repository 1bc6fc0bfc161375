public import BorgFormat
import Disk
import Glibc
import NIOCore
import NIOPosix
import NIOSSL
public import REST
import SocketServer
import Synchronization

/// The network server: listens, serves, reloads what has changed, and ends when it is told to. Thread-safe; a class because
/// signals, ticks and connections share it.
public final class NetworkServer: Sendable {
  private let shared: Shared
  private let log: Log
  /// The process' own, a thread for each core, which lasts as long as it does.
  private let group = MultiThreadedEventLoopGroup.singleton
  private let configurationFile: String?
  private let flags: Configuration.Flags
  private let sockets: UnixSockets
  private let prepare: @Sendable (Configuration) throws -> Void
  private let certificates = Mutex<[Configuration.Listener.TLS: NIOSSLContext]>([:])
  private let state = Mutex(State())
  private let isOver = Cancellation()

  private struct State {
    var channels: [any Channel] = []
    var files: [SocketFile] = []
    var watched = WatchedFiles()
    var looker: WorkerThread?
    var addresses: [String] = []
  }

  /// Why the server cannot start.
  public struct Failure: Error, CustomStringConvertible {
    public let description: String
  }

  /// `sockets` are those that were opened already; others are opened at `start`. `configurationFile` is read again at `reload`; nil: never. `open` makes the place of a repository, by its name below the
  /// root, and `begin` takes up a request to one.
  public init(
    _ configuration: Configuration, file configurationFile: String? = nil,
    flags: Configuration.Flags = .init(),
    sockets: UnixSockets = UnixSockets(), log: Log,
    open: @escaping @Sendable (RepositoryName, Configuration) -> any StorePlace,
    prepare: @escaping @Sendable (Configuration) throws -> Void = { _ in },
    begin: @escaping @Sendable (RequestHead, any StorePlace, Permissions) -> any Exchange
  ) throws(Failure) {
    let cores = System.coreCount
    (self.log, self.configurationFile, self.flags, self.sockets) = (log, configurationFile, flags, sockets)
    self.prepare = prepare
    let workers = WorkerPool(threads: configuration.threads ?? max(16, cores * 4))
    let front = Front(configuration)
    let registry = Registry(open: { open($0, front.current.configuration) }) { name, error in
      log.write(
        .error, "a repository could not be closed",
        ["repository": .text(name.text), "error": .text("\(error)")])
    }
    let (metrics, connections) = (Metrics(), Connections())
    shared = Shared(
      front: front, registry: registry, metrics: metrics, log: log, connections: connections,
      workers: workers,
      checkers: PasswordCheckers(front.credentials, threads: max(1, cores / 2)), begin: begin,
      page: { metrics.text(connections: connections.count, openRepositories: registry.names.count) })
    try loadCredentials(configuration)
    do { try prepare(configuration) } catch { throw Failure(description: "\(error)") }
    _ = state.withLock { $0.watched.changes(of: Self.files(configuration, configurationFile)) }
  }

  private func loadCredentials(_ configuration: Configuration) throws(Failure) {
    guard let path = configuration.credentials else { return shared.front.credentials.load(PasswordFile()) }
    do throws(ConfigurationProblem) {
      shared.front.credentials.load(try PasswordFile(parsing: try Self.text(path)))
    } catch {
      throw Failure(description: "\(path): \(error)")
    }
  }

  /// Looks at everything that a configuration refers to: the root, users, certificates. Returns who has a password.
  public static func check(_ configuration: Configuration) throws(Failure) -> Set<String> {
    do {
      for listener in configuration.listeners {
        if let tls = listener.tls { _ = try makeContext(tls) }
        if case .unix(_, _, let group) = listener.place { _ = try UnixSockets.group(group) }
      }
    } catch {
      throw Failure(description: "\(error)")
    }
    guard let path = configuration.credentials else { return [] }
    do throws(ConfigurationProblem) {
      return Set(try PasswordFile(parsing: try text(path)).passwords.keys)
    } catch {
      throw Failure(description: "\(path): \(error)")
    }
  }

  /// The text of a file of at most 4 MiB.
  public static func text(_ path: String) throws(ConfigurationProblem) -> String {
    do {
      let bytes = try readWhole(Array(path.utf8), limit: 4 << 20)
      guard let text = String(validating: bytes, as: UTF8.self) else {
        throw ConfigurationProblem(line: nil, "is not UTF-8")
      }
      return text
    } catch let problem as ConfigurationProblem {
      throw problem
    } catch {
      throw ConfigurationProblem(line: nil, "cannot be read: \(error)")
    }
  }

  private static func files(_ configuration: Configuration, _ configurationFile: String?) -> [String] {
    let tls = configuration.listeners.compactMap(\.tls).flatMap { [$0.certificate, $0.key] }
    return [configurationFile, configuration.credentials].compactMap { $0 } + tls
  }

  // MARK: Listening

  /// Opens all listeners; if one fails, none is left open. Blocking. Afterwards `addresses` says where.
  public func start() throws(Failure) {
    let configuration = shared.front.current.configuration
    do {
      for listener in configuration.listeners { try open(listener) }
    } catch {
      stop()
      throw Failure(description: "\(error)")
    }
    if configuration.credentials == nil, configuration.proxy.userHeader == nil {
      log.write(
        .warning,
        "there is no credentials file: only this machine can connect, and whoever does needs no password")
    }
    guard configuration.repositoryMetricsInterval > 0 else { return }
    let looker = WorkerThread { [self] in lookAtRepositories() }
    state.withLock { $0.looker = looker }
  }

  /// Where the server listens: `127.0.0.1:8000`, or the path of a socket.
  public var addresses: [String] { state.withLock { $0.addresses } }

  private func open(_ listener: Configuration.Listener) throws {
    if let tls = listener.tls { _ = try context(tls) }
    switch listener.place {
    case .address(let address, let port):
      let channel = try bootstrap(listener, isUnix: false).bind(host: address, port: port).wait()
      keep(
        channel, "\(address.contains(":") ? "[\(address)]" : address):\(channel.localAddress?.port ?? port)",
        listener)
    case .unix(let path, let mode, let group):
      let file = try sockets.files[path] ?? UnixSockets.open(path, mode, group)
      state.withLock { $0.files.append(file) }
      let descriptor = try file.listener.duplicate()
      keep(try bootstrap(listener, isUnix: true).withBoundSocket(descriptor).wait(), path, listener)
    case .systemd(let name):
      let sockets = ActivatedSockets.named(name)
      guard !sockets.isEmpty else {
        throw Failure(
          description: "systemd has handed over no socket with the name \(name) (FileDescriptorName=)")
      }
      for socket in sockets {
        if let address = socket.address, !address.isLoopback { try checkReach(name, listener) }
        keep(
          try bootstrap(listener, isUnix: socket.address == nil).withBoundSocket(socket.descriptor).wait(),
          "systemd:\(name)", listener)
      }
    }
  }

  /// What the configuration could not know yet of a socket that systemd has opened.
  private func checkReach(_ name: String, _ listener: Configuration.Listener) throws(Failure) {
    let configuration = shared.front.current.configuration
    if configuration.credentials == nil && configuration.proxy.userHeader == nil {
      throw Failure(
        description:
          "the socket \(name) of systemd reaches beyond this machine, and there is no credentials file")
    }
    if listener.tls == nil && !configuration.allowsPlaintext {
      throw Failure(
        description:
          "the socket \(name) of systemd reaches beyond this machine without TLS; see allow-plaintext")
    }
  }

  private func keep(_ channel: any Channel, _ address: String, _ listener: Configuration.Listener) {
    state.withLock { state in
      state.channels.append(channel)
      state.addresses.append(address)
    }
    log.write(
      .info, "listening", ["address": .text(address), "tls": .text(listener.tls == nil ? "no" : "yes")])
  }

  private func bootstrap(_ listener: Configuration.Listener, isUnix: Bool) -> ServerBootstrap {
    let bootstrap = ServerBootstrap(group: group)
      .serverChannelOption(.backlog, value: 1024)
      .childChannelOption(.allowRemoteHalfClosure, value: true)
      .childChannelOption(
        .writeBufferWaterMark, value: .init(low: NetworkLimits.block, high: NetworkLimits.unsent)
      )
      .childChannelOption(
        .recvAllocator,
        value: AdaptiveRecvByteBufferAllocator(minimum: 2048, initial: 4096, maximum: NetworkLimits.block)
      )
      .childChannelInitializer { [self] channel in
        channel.eventLoop.makeCompletedFuture { try initialize(channel, listener, isUnix: isUnix) }
      }
    guard !isUnix else { return bootstrap }
    return
      bootstrap
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
  }

  private struct TooMany: Error {}

  private func initialize(_ channel: any Channel, _ listener: Configuration.Listener, isUnix: Bool) throws {
    let settings = shared.front.current.configuration
    var origin = Origin(
      address: "unix", site: [], showsMetrics: listener.metrics, isProxy: settings.proxy.trustsUnix)
    if !isUnix, let text = channel.remoteAddress?.ipAddress, let address = NetworkAddress(text) {
      (origin.address, origin.site) = (text, address.site)
      origin.isProxy = settings.proxy.trusted.contains { $0.contains(address) }
    }
    let handler = ConnectionHandler(shared, origin: origin, eventLoop: channel.eventLoop)
    guard handler.enter() else {
      log.write(.warning, "connection refused: too many", ["address": .text(origin.address)])
      throw TooMany()
    }
    if let tls = listener.tls {
      try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: try context(tls)))
    }
    try channel.pipeline.syncOperations.addHandler(handler)
  }

  // MARK: TLS

  /// The context of a certificate, read when it is needed first or has changed.
  private func context(_ tls: Configuration.Listener.TLS) throws -> NIOSSLContext {
    try certificates.withLock { contexts in
      if let context = contexts[tls] { return context }
      let context = try Self.makeContext(tls)
      contexts[tls] = context
      return context
    }
  }

  private static func makeContext(_ tls: Configuration.Listener.TLS) throws -> NIOSSLContext {
    do {
      let chain = try NIOSSLCertificate.fromPEMFile(tls.certificate).map {
        NIOSSLCertificateSource.certificate($0)
      }
      guard !chain.isEmpty else {
        throw Failure(description: "\(tls.certificate): there is no certificate in it")
      }
      let key = try NIOSSLPrivateKey(file: tls.key, format: .pem)
      var options = TLSConfiguration.makeServerConfiguration(
        certificateChain: chain, privateKey: .privateKey(key))
      options.minimumTLSVersion = .tlsv12
      options.applicationProtocols = ["http/1.1"]
      return try NIOSSLContext(configuration: options)
    } catch let failure as Failure {
      throw failure
    } catch {
      throw Failure(description: "certificate \(tls.certificate) or key \(tls.key) cannot be used: \(error)")
    }
  }

  // MARK: Changes

  /// Reads everything again that may change: users, passwords, certificates, limits, logs. What is wrong with a file is
  /// logged, and what it said before stays in force. From any thread; blocking.
  public func reload() {
    var configuration = shared.front.current.configuration
    if let configurationFile {
      do {
        let new = try Configuration(parsing: try Self.text(configurationFile), flags: flags)
        if new.root != configuration.root
          || new.listeners.map(\.place) != configuration.listeners.map(\.place)
        {
          log.write(.warning, "a changed root, or changed listeners, count from the next start only")
        }
        var merged = new
        merged.root = configuration.root
        configuration = merged
      } catch {
        log.write(
          .error, "the configuration is left as it was",
          ["file": .text(configurationFile), "error": .text("\(error)")])
      }
    }
    do { try prepare(configuration) } catch {
      log.write(.error, "the quotas are left as they were", ["error": .text("\(error)")])
    }
    do throws(Failure) {
      try loadCredentials(configuration)
      shared.front.change(to: configuration)
      log.change(to: configuration.log)
      log.write(.info, "reloaded", ["users": .number(shared.front.credentials.users.count)])
    } catch {
      log.write(.error, "the credentials are left as they were", ["error": .text("\(error)")])
    }
    for tls in Set(certificates.withLock { Array($0.keys) }) {
      do {
        let context = try Self.makeContext(tls)
        certificates.withLock { $0[tls] = context }
      } catch {
        log.write(.error, "the certificate is left as it was", ["error": .text("\(error)")])
      }
    }
  }

  /// The periodic work, once a second, on a thread that may block.
  public func tick() {
    shared.registry.tick()
    let files = Self.files(shared.front.current.configuration, configurationFile)
    let changed = state.withLock { $0.watched.changes(of: files) }
    if !changed.isEmpty { reload() }
  }

  private func lookAtRepositories() {
    repeat {
      let configuration = shared.front.current.configuration
      let showsMetrics =
        configuration.listeners.contains(where: \.metrics) || configuration.anonymous?.metrics == true
        || configuration.users.values.contains(where: \.metrics)
      guard showsMetrics, let root = try? RepositoryPath(resolving: Array(configuration.root.utf8)) else {
        continue
      }
      let look = RepositoryLook(
        root: root, patterns: configuration.patterns.map(\.pattern), quotas: configuration.repositoryQuotas
      ) { [isOver] in isOver.isCancelled }
      shared.metrics.replace(repositories: look.facts())
    } while !isOver.sleep(.seconds(max(1, shared.front.current.configuration.repositoryMetricsInterval)))
  }

  // MARK: The end

  /// Accepts no more clients, lets requests in flight end for as long as the configuration says, and closes everything,
  /// durably. Blocking; to be called once.
  public func stop() {
    isOver.cancel()
    let (channels, files, looker) = state.withLock { state in
      defer { (state.channels, state.files, state.looker) = ([], [], nil) }
      return (state.channels, state.files, state.looker)
    }
    for file in files { file.remove() }
    for channel in channels { try? channel.close().wait() }
    let connections = shared.connections.drain()
    log.write(.info, "stopping", ["connections": .number(connections.count)])
    for connection in connections { connection.drain() }
    let limit = ContinuousClock.now + .seconds(shared.front.current.configuration.limits.drainTime)
    while shared.connections.count > 0, .now < limit { Host.pause(.milliseconds(10)) }
    let left = shared.connections.drain()
    if !left.isEmpty { log.write(.warning, "connections were cut", ["connections": .number(left.count)]) }
    for connection in left { connection.cut() }
    let patience = ContinuousClock.now + .seconds(1)
    while shared.connections.count > 0, .now < patience { Host.pause(.milliseconds(5)) }
    looker?.join()
    shared.checkers.end()
    // What workers have begun they end, and give up what was cut.
    shared.workers.end()
    shared.registry.closeAll()
    log.write(.info, "stopped")
  }
}
