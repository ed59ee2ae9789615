//! Recipes' administration: the `Recipes` service, and the standard set at the cluster's birth.
//!
//! Any node takes any call: it admits the component itself, has its bytes logged in pieces, and asks the voters
//! whether they have compiled it before it has the instance activated (recipes are compiled off the apply thread, so
//! that an activation holds nobody up). Each step is harmless to repeat. The standard recipes enter the log once, by
//! the leader, before the engine epoch is set (rules.md 24); a newer binary changes none of them by itself.
//!
//! Absent: what an order does (core/tree), what is admitted (plugins/host).

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use quorate_model::{Code, Failure, NodeId, PluginId, limits::PLUGIN_CHUNK_MAX_BYTES};
use quorate_proto::v1;
use quorate_tree::{Body, FEATURE_LEVEL_SECOND, OriginReply, RecipeOrder, State, View, recipe, recipe::EPOCH_FIRST};
use sha2::{Digest as _, Sha256};
use tokio::{task::spawn_blocking, time::Instant};
use tonic::{Request, Response, Status};

use super::{service::status, wire};
use crate::{
    engine::{self, Admitted},
    error::Trouble,
    leader::ask,
    node::{Active, Shell},
    signature,
    standard::STANDARD,
};

/// An order is applied within this time, or the client hears why not.
const ORDER_DEADLINE: Duration = Duration::from_secs(20);

/// Voters have this long to compile a component: a large one on a small machine takes seconds.
const COMPILE_DEADLINE: Duration = Duration::from_secs(60);

/// Between two questions whether they have.
const COMPILED_AGAIN: Duration = Duration::from_millis(50);

/// One voter's answer to that; one that does not answer is not waited for.
const COMPILED_DEADLINE: Duration = Duration::from_secs(2);

/// How often the leader looks whether the standard recipes are there.
const STANDARD_EVERY: Duration = Duration::from_millis(500);

type Answer<T> = Result<Response<T>, Status>;

#[derive(Clone, Debug)]
struct Door {
    shell: Arc<Shell>,
}

/// The service of the client port.
pub fn service(
    shell: Arc<Shell>,
) -> impl tonic::codegen::Service<
    http::Request<tonic::body::Body>,
    Response = http::Response<tonic::body::Body>,
    Error = std::convert::Infallible,
    Future: Send + 'static,
> + tonic::server::NamedService
+ Clone
+ Send
+ Sync
+ 'static {
    v1::recipes_server::RecipesServer::new(Door { shell })
        .max_decoding_message_size(quorate_proto::FRAME_MAX_BYTES)
        .max_encoding_message_size(quorate_proto::FRAME_MAX_BYTES)
}

fn trouble(failure: Failure) -> Trouble {
    let detail = if failure.detail.is_empty() { failure.code.text().to_owned() } else { failure.detail };
    Trouble::new(failure.code, detail)
}

/// Has an order applied.
pub(super) async fn order(active: &Active, order: RecipeOrder) -> Result<(), Trouble> {
    let deadline = Instant::now() + ORDER_DEADLINE;
    let make = |origin| Body::Recipe { order: order.clone(), origin };
    match active.registry.ask(None, deadline, make).await? {
        OriginReply::Failed(failure) => Err(trouble(failure)),
        OriginReply::Refused(code) => Err(code.into()),
        _ => Ok(()),
    }
}

/// Admits a component, away from the runtime: it is compiled for that.
pub(super) async fn admit(component: Bytes) -> Result<Admitted, Trouble> {
    let host = engine::host().map_err(|why| Trouble::new(Code::PluginRefused, why))?;
    let admitted = spawn_blocking(move || host.admit(&component)).await;
    let admitted = admitted.map_err(|_| Trouble::new(Code::PluginRefused, "admission failed on this node"))?;
    admitted.map_err(|refused| Trouble::new(Code::PluginRefused, refused.to_string()))
}

/// Has an admitted component logged, piece by piece, with its signature if it has one.
pub(super) async fn install(active: &Active, admitted: &Admitted, signature: &Bytes) -> Result<(), Trouble> {
    let component = Bytes::copy_from_slice(&admitted.component);
    // Below that level the check of the node that was asked is all there is.
    let level = ask(&active.handle, State::feature_level).await.ok_or(Code::Closing)?;
    let second = level >= FEATURE_LEVEL_SECOND;
    for offset in (0..component.len()).step_by(PLUGIN_CHUNK_MAX_BYTES) {
        let end = component.len().min(offset + PLUGIN_CHUNK_MAX_BYTES);
        let (plugin, author, descriptor) = (admitted.plugin, admitted.author, admitted.descriptor.clone());
        let (offset, total, bytes) = (offset as u64, component.len() as u64, component.slice(offset..end));
        let piece = match signature.is_empty() || !second {
            true => RecipeOrder::PutPlugin { plugin, author, descriptor, offset, total, bytes },
            false => {
                let signature = signature.clone();
                RecipeOrder::PutSigned { signature, plugin, author, descriptor, offset, total, bytes }
            }
        };
        order(active, piece).await?;
    }
    Ok(())
}

/// Waits until every voter that answers has compiled a component.
///
/// Errors: `NotCompiled`, naming those who have not.
async fn compiled(active: &Active, plugin: PluginId) -> Result<(), Trouble> {
    let deadline = Instant::now() + COMPILE_DEADLINE;
    let own = active.identity.node;
    loop {
        let members = active.handle.membership().members;
        let voters = members.into_iter().filter(|seen| seen.voter).map(|seen| seen.id);
        let asked = voters.map(|voter| async move {
            let ready = if voter == own {
                engine::host().ok().map(|host| host.is_ready(plugin))
            } else {
                let said = active.peers.call(voter, wire::COMPILED, wire::put(&plugin), COMPILED_DEADLINE).await;
                said.ok().and_then(|said| wire::take::<bool>(&said).ok())
            };
            (voter, ready)
        });
        let late: Vec<NodeId> =
            join_all(asked).await.into_iter().filter(|(_, ready)| *ready == Some(false)).map(|(id, _)| id).collect();
        if late.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Trouble::new(
                Code::NotCompiled,
                format!("component {plugin}: nodes {late:?} are not through yet"),
            ));
        }
        tokio::time::sleep(COMPILED_AGAIN).await;
    }
}

/// A view of everything that was acknowledged before.
async fn view(active: &Active) -> Result<Arc<View>, Trouble> {
    let deadline = Instant::now() + ORDER_DEADLINE;
    active.reader.barrier(deadline).await?;
    active.reader.view(deadline).await
}

fn plugin_of(text: &str) -> Result<PluginId, Trouble> {
    PluginId::parse(text)
        .ok_or_else(|| Trouble::new(Code::BadArguments, format!("{text:?} is no hash of a component: 64 hex digits")))
}

fn hex(bytes: [u8; 32]) -> String {
    PluginId(bytes).to_string()
}

fn plugin_message(id: PluginId, author: [u8; 32], bytes: usize, descriptor: &recipe::Descriptor) -> v1::Plugin {
    let method = |method: &recipe::Method| v1::Method {
        name: method.name.clone(),
        read_only: method.read_only,
        may_park: method.may_park,
        doc: method.doc.clone(),
    };
    v1::Plugin {
        id: id.to_string(),
        author_hash: hex(author),
        name: descriptor.name.clone(),
        version: descriptor.version.clone(),
        state_version: descriptor.state_version,
        min_state_version: descriptor.min_state_version,
        methods: descriptor.methods.iter().map(method).collect(),
        bytes: bytes as u64,
    }
}

/// The author's hash of the standard component that this build brings along for an instance, where it has another
/// (rules.md 24): a newer build swaps none by itself, and says so.
fn shipped(info: &recipe::InstanceInfo, view: &View) -> Option<[u8; 32]> {
    let (_, bytes) = STANDARD.iter().find(|(name, _)| *name == info.name)?;
    let has = view.plugin(info.facts.plugin?)?.author;
    let ours = <[u8; 32]>::from(Sha256::digest(bytes));
    (has != ours).then_some(ours)
}

fn instance_message(info: recipe::InstanceInfo, view: &View) -> v1::Instance {
    let shipped = shipped(&info, view).map(hex).unwrap_or_default();
    let facts = info.facts;
    let id = |plugin: Option<PluginId>| plugin.map(|plugin| plugin.to_string()).unwrap_or_default();
    v1::Instance {
        name: info.name,
        root: facts.root.to_string(),
        plugin: id(facts.plugin),
        previous: id(facts.previous),
        status: facts.status_name().into(),
        state_version: facts.state_version,
        parked: info.parked as u64,
        timers: info.timers as u64,
        pending: info.pending as u64,
        faults: facts.faults,
        last_fault: facts.last_fault.map(|code| code.name().to_owned()).unwrap_or_default(),
        migration: info.migration.map(migration_message),
        shipped,
    }
}

fn migration_message(facts: recipe::MigrationFacts) -> v1::Migration {
    let failure = facts.failure.map(trouble);
    v1::Migration {
        to: facts.to.to_string(),
        from_version: facts.from,
        steps: facts.steps,
        restarts: facts.restarts,
        failure: failure.as_ref().map_or(0, |trouble| trouble.code.number()),
        detail: failure.map(|trouble| trouble.to_string()).unwrap_or_default(),
    }
}

impl Door {
    fn active(&self) -> Result<Arc<Active>, Status> {
        self.shell.require_active().map_err(status)
    }

    /// Has an order applied and shows the instance as it is then.
    async fn carry_out(&self, name: &str, wanted: RecipeOrder) -> Answer<v1::InstanceReply> {
        let active = self.active()?;
        order(&active, wanted).await.map_err(status)?;
        self.show(&active, name).await
    }

    async fn show(&self, active: &Active, name: &str) -> Answer<v1::InstanceReply> {
        let view = view(active).await.map_err(status)?;
        let found = view.instances().find(|info| info.name == name).map(|info| instance_message(info, &view));
        // One that was removed is shown by its name alone.
        let gone = || v1::Instance { name: name.to_owned(), ..Default::default() };
        Ok(Response::new(v1::InstanceReply { instance: Some(found.unwrap_or_else(gone)) }))
    }

    async fn known(&self, name: &str) -> Result<recipe::InstanceInfo, Trouble> {
        let active = self.shell.require_active()?;
        let view = view(&active).await?;
        view.instances()
            .find(|info| info.name == name)
            .ok_or_else(|| Trouble::new(Code::UnknownInstance, format!("{name}: {}", Code::UnknownInstance.text())))
    }

    async fn give(&self, name: String, plugin: PluginId, config: Bytes, new: bool) -> Answer<v1::InstanceReply> {
        let active = self.active()?;
        compiled(&active, plugin).await.map_err(status)?;
        let wanted = RecipeOrder::Activate { instance: name.clone(), plugin, config, new };
        self.carry_out(&name, wanted).await
    }
}

#[tonic::async_trait]
impl v1::recipes_server::Recipes for Door {
    async fn install(&self, request: Request<v1::InstallRequest>) -> Answer<v1::InstallReply> {
        let active = self.active()?;
        let v1::InstallRequest { component, signature } = request.into_inner();
        let admitted = admit(component).await.map_err(status)?;
        signature::check(&self.shell.options().trusted_keys, &admitted, &signature)
            .map_err(|why| status(Trouble::new(Code::PluginRefused, why)))?;
        install(&active, &admitted, &signature).await.map_err(status)?;
        let Admitted { plugin, author, component, descriptor } = admitted;
        let plugin = plugin_message(plugin, author, component.len(), &descriptor);
        Ok(Response::new(v1::InstallReply { plugin: Some(plugin) }))
    }

    async fn uninstall(&self, request: Request<v1::PluginRequest>) -> Answer<v1::InstallReply> {
        let active = self.active()?;
        let id = plugin_of(&request.into_inner().plugin).map_err(status)?;
        let view = view(&active).await.map_err(status)?;
        let found = view.plugin(id).map(|it| plugin_message(id, it.author, it.component.len(), &it.descriptor));
        order(&active, RecipeOrder::RemovePlugin { plugin: id }).await.map_err(status)?;
        Ok(Response::new(v1::InstallReply { plugin: found }))
    }

    async fn activate(&self, request: Request<v1::ActivateRequest>) -> Answer<v1::InstanceReply> {
        let v1::ActivateRequest { instance, plugin, like, config } = request.into_inner();
        if like.is_empty() {
            let plugin = plugin_of(&plugin).map_err(status)?;
            return self.give(instance, plugin, config, false).await;
        }
        let model = self.known(&like).await.map_err(status)?;
        let inactive = || status(Trouble::new(Code::Inactive, format!("{like}: {}", Code::Inactive.text())));
        let plugin = model.facts.plugin.ok_or_else(inactive)?;
        self.give(instance, plugin, config, true).await
    }

    async fn rollback(&self, request: Request<v1::InstanceRequest>) -> Answer<v1::InstanceReply> {
        let name = request.into_inner().instance;
        let info = self.known(&name).await.map_err(status)?;
        let none = || status(Trouble::new(Code::Conflict, format!("{name} has had no other component")));
        // Of one that is migrating, what it still has is what it goes back to.
        let current = info.facts.plugin.filter(|_| info.facts.status == recipe::Status::Migrating);
        let previous = current.or(info.facts.previous).ok_or_else(none)?;
        self.give(name, previous, Bytes::new(), false).await
    }

    async fn suspend(&self, request: Request<v1::InstanceRequest>) -> Answer<v1::InstanceReply> {
        let instance = request.into_inner().instance;
        self.carry_out(&instance.clone(), RecipeOrder::Suspend { instance }).await
    }

    async fn resume(&self, request: Request<v1::InstanceRequest>) -> Answer<v1::InstanceReply> {
        let instance = request.into_inner().instance;
        self.carry_out(&instance.clone(), RecipeOrder::Resume { instance }).await
    }

    async fn deactivate(&self, request: Request<v1::InstanceRequest>) -> Answer<v1::InstanceReply> {
        let instance = request.into_inner().instance;
        self.carry_out(&instance.clone(), RecipeOrder::Deactivate { instance }).await
    }

    async fn remove(&self, request: Request<v1::InstanceRequest>) -> Answer<v1::InstanceReply> {
        let instance = request.into_inner().instance;
        self.carry_out(&instance.clone(), RecipeOrder::Remove { instance }).await
    }

    async fn list(&self, request: Request<v1::ListRecipesRequest>) -> Answer<v1::ListRecipesReply> {
        let name = request.into_inner().instance;
        let active = self.active()?;
        let view = view(&active).await.map_err(status)?;
        let wanted = view.instances().filter(|info| name.is_empty() || info.name == name);
        let instances: Vec<_> = wanted.map(|info| instance_message(info, &view)).collect();
        if !name.is_empty() && instances.is_empty() {
            let detail = format!("{name}: {}", Code::UnknownInstance.text());
            return Err(status(Trouble::new(Code::UnknownInstance, detail)));
        }
        let used = |id: &PluginId| {
            let id = id.to_string();
            name.is_empty() || instances.iter().any(|one| one.plugin == id || one.previous == id)
        };
        let plugins = view
            .plugins()
            .filter(|(id, _)| used(id))
            .map(|(id, it)| plugin_message(id, it.author, it.component.len(), &it.descriptor))
            .collect();
        let (zxid, epoch) = (view.zxid().0, view.engine_epoch());
        let standard_pending = self.shell.options().standard_recipes && epoch < EPOCH_FIRST;
        Ok(Response::new(v1::ListRecipesReply { instances, plugins, zxid, epoch, standard_pending }))
    }
}

/// Has the standard recipes installed and activated, once in the cluster's life; runs until that is done.
pub async fn standard(shell: Weak<Shell>) {
    if STANDARD.is_empty() {
        return;
    }
    let mut tick = tokio::time::interval(STANDARD_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(shell) = shell.upgrade() else { return };
        let Some(active) = shell.active() else { continue };
        let known = ask(&active.handle, |state| (state.cluster().is_some(), state.engine_epoch())).await;
        let Some((born, epoch)) = known else { return };
        if epoch >= EPOCH_FIRST {
            return;
        }
        if !born || !active.handle.leadership().borrow().is_leader {
            continue;
        }
        if let Err(trouble) = set_up(&active).await {
            // As after a change of leader: whoever leads goes on where this stopped.
            tracing::warn!(node = %active.identity.node, %trouble, "the standard recipes are not all installed yet");
        }
    }
}

async fn set_up(active: &Active) -> Result<(), Trouble> {
    for (name, component) in STANDARD {
        let admitted = admit(Bytes::from_static(component)).await?;
        install(active, &admitted, &Bytes::new()).await?;
        compiled(active, admitted.plugin).await?;
        let wanted = RecipeOrder::Activate {
            instance: (*name).into(),
            plugin: admitted.plugin,
            config: Bytes::new(),
            new: false,
        };
        order(active, wanted).await?;
    }
    order(active, RecipeOrder::SetEpoch { epoch: EPOCH_FIRST }).await
}
