from script_runner import Pods, Server


def test_smoke(pods: Pods, server: Server, database) -> None:
    db = database('Kundé"n')
    assert db.app_sql("select current_user") == 'Kundé"n'
    o = pods.run([], db.env)
    print(o)
