"""The ClientApp: a node's clients, each with its own download, data and memory."""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

import igc
from igc.deployment.flower.memory import ContextMemories, FolderMemories, Memories
from igc.deployment.flower.settings import NodeSettings, RunSettings
from igc.deployment.flower.sides import Clients, clients_side, names_served
from igc.deployment.flower.wire import Answer, Order, Presence, pack_answers, pack_presence, unpack_order
from igc.errors import IgcError
from igc.experiments.recipe import Recipe, load
from igc.federation import Request
from igc.federation.engine import MISSED
from igc.methods import MissedError


def client_app(recipe: Recipe | Path, simulated: RunSettings | None = None) -> ClientApp:
    """A ClientApp for a recipe.

    Args:
        recipe: or the TOML file that it is in, which is read when it is needed.
        simulated: settings of a simulated run, whose nodes share processes, and these the data of all clients; None: the
            run is a real one, and its run config has them.
    """
    app = ClientApp()

    @app.query()
    def call(message: Message, context: Context) -> Message:
        run, node = _settings(context, simulated)
        if simulated:
            names = clients_side(_recipe(recipe), run, node, shared=True).names
        else:
            names = names_served(_recipe(recipe), run, node)
        return Message(pack_presence(Presence(names, igc.__version__)), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        run, node = _settings(context, simulated)
        chosen = _recipe(recipe)
        memories = _memories(chosen, node, context)
        order = unpack_order(message.content)
        clients = clients_side(chosen, run, node, shared=simulated is not None)
        answers = answer(clients, order, memories)
        return Message(pack_answers(answers), reply_to=message)

    return app


def answer(clients: Clients, order: Order, memories: Memories) -> dict[str, Answer]:
    """Each client's answer to its download; one that fails, for want of disk space for instance, leaves the others alone.

    A client whose memory cannot be kept gives no upload: the server would build on what the client has forgotten.
    """
    answers = {}
    for position, (client, payload) in enumerate(zip(order.clients, order.payloads, strict=True)):
        if client not in clients.names:
            answers[client] = Answer(None, "its data are not on this node")
            continue
        try:
            memory = memories.get(order.session, client)
            memory, upload = clients.engine.respond(Request(client, position, payload), memory)
            memories.put(order.session, client, memory)
            answers[client] = Answer(upload)
        except MissedError:
            answers[client] = Answer(None, MISSED)
        except IgcError as error:
            answers[client] = Answer(None, str(error))
        except Exception as error:
            logging.getLogger("igc").exception("client '%s' failed", client)
            answers[client] = Answer(None, f"{type(error).__name__}: {error}")
    return answers


def _memories(recipe: Recipe, node: NodeSettings, context: Context) -> Memories:
    if node.memory is None:
        return ContextMemories(context.state)
    local = recipe.privacy is not None and recipe.privacy.where == "local"
    return FolderMemories(node.memory, accounts=local or recipe.secure is not None)


def _settings(context: Context, simulated: RunSettings | None) -> tuple[RunSettings, NodeSettings]:
    run = simulated or RunSettings.read(context.run_config, "run config")
    return run, NodeSettings.read(context.node_config, "node config")


def _recipe(recipe: Recipe | Path) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else load(recipe)
